"""AdaLoRA: a LoRA whose ranks move to the layers where they matter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tamis.errors import RecipeError
from tamis.selectors.base import About
from tamis.trainer.methods.adapter import Adapter, layers
from tamis.trainer.methods.base import Context, State

_FEWEST_STEPS = 3
_SMOOTHED = ("ipt", "exp_avg_ipt", "exp_avg_unc")


@dataclass
class AdaLora(Adapter):
    """P diag(E) Q beside each layer; entries of E that matter least become 0 (arXiv 2303.10512).

    All layers begin with `rank`; from share `first` of the steps on the mean rank falls with a cube
    to `target_rank`, which it has for the last share `last`. An entry's importance is the smoothed
    |weight x gradient| of its triplet times its uncertainty. `orthogonality` weighs the mean of
    |P'P - I|_F and |QQ' - I|_F in the loss, once a step. By peft, whose own term reaches only a
    loss that the model itself returns; here it is added to ours.
    """

    name = "adalora"
    about = About(
        sentence="LoRA whose ranks go to the layers where they matter most.",
        needs=f"at least {_FEWEST_STEPS} steps",
        cost="as LoRA, and three numbers more for each of the adapter's",
        avoid="short runs: importance is an average over many steps",
    )
    source = "arXiv 2303.10512"
    learning_rate = 1e-3

    rank: int = 12
    target_rank: int = 8
    alpha: int = 32
    dropout: float = 0.0
    targets: str | tuple[str, ...] = "all-linear"
    first: float = 0.1
    last: float = 0.3
    orthogonality: float = 0.5

    def check(self) -> None:
        """See `Method`."""
        if not 0 < self.target_rank < self.rank:
            raise RecipeError(
                f"adalora: target_rank={self.target_rank} must be at least 1 and below "
                f"rank={self.rank}"
            )
        if self.first < 0 or self.last < 0 or self.first + self.last >= 1:
            raise RecipeError("adalora: first and last must be shares whose sum is below 1")

    def config(self, lm: Any, context: Context) -> Any:
        """See `Adapter`."""
        from peft import AdaLoraConfig, TaskType

        if context.steps < _FEWEST_STEPS:
            raise RecipeError(
                f"adalora: the run has {context.steps} steps, at least {_FEWEST_STEPS} are needed"
            )
        return AdaLoraConfig(
            task_type=TaskType.CAUSAL_LM,
            init_r=self.rank,
            target_r=self.target_rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=layers(lm, self.targets),
            tinit=int(self.first * context.steps),
            tfinal=int(self.last * context.steps),
            total_step=context.steps,
            orth_reg_weight=max(self.orthogonality, 1e-12),
        )

    def prepare(self, lm: Any, context: Context) -> Any:
        """See `Method`."""
        self.trained = super().prepare(lm, context)
        return self.trained

    def penalty(self) -> Any:
        """See `Method`."""
        import torch

        gaps = []
        for name, parameter in self.trained.named_parameters():
            if ".lora_A." in name or ".lora_B." in name:
                square = parameter @ parameter.T if ".lora_A." in name else parameter.T @ parameter
                gaps.append(torch.linalg.matrix_norm(square - torch.eye(len(square)).to(square)))
        return self.orthogonality * sum(gaps) / len(gaps)

    def step_end(self, step: int) -> None:
        """See `Method`: importance is read from the gradients of the step."""
        self.trained.base_model.update_and_allocate(step + 1)

    def state_dict(self) -> State:
        """See `Method`."""
        allocator = self.trained.base_model.rankallocator
        tensors = {
            f"{kind}/{name}": value
            for kind in _SMOOTHED
            for name, value in getattr(allocator, kind).items()
        }
        return tensors, {"rank_pattern": self.trained.peft_config["default"].rank_pattern}

    def load_state_dict(self, tensors: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        """See `Method`."""
        allocator = self.trained.base_model.rankallocator
        device = next(self.trained.parameters()).device
        for key, value in tensors.items():
            kind, _, name = key.partition("/")
            getattr(allocator, kind)[name] = value.to(device)
        self.trained.peft_config["default"].rank_pattern = values["rank_pattern"]

    def facts(self) -> dict[str, Any]:
        """The rank every layer was left with."""
        kept = self.trained.peft_config["default"].rank_pattern or {}
        return {"ranks": {n.partition(".lora_E")[0]: sum(mask) for n, mask in kept.items()}}
