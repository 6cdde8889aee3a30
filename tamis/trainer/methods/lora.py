"""LoRA: low-rank updates beside linear layers, and how they begin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tamis.errors import RecipeError
from tamis.selectors.base import About
from tamis.trainer.methods import lora_init
from tamis.trainer.methods.adapter import Adapter, layers, wrapped
from tamis.trainer.methods.base import Context, State

Init = Literal["default", "pissa", "olora", "orthogonal", "eva", "corda", "lora_ga"]


@dataclass
class Lora(Adapter):
    """W + (alpha / rank) B A, with A and B trained (arXiv 2106.09685), by peft.

    `rslora` divides by the square root of the rank (2312.03732), `dora` trains the length of each
    column of the sum apart (2402.09353), `plus_ratio` is the rate of B over that of A (LoRA+,
    2402.12354), `freeze_a` leaves A as drawn (LoRA-FA, 2308.03303; peft's optimizer of that name
    also rescales the gradient, ours does not). `layers` are the blocks that get an adapter,
    `trainable_tokens` ids whose embeddings are trained too.

    `init` says how A and B begin. pissa (2404.02948), olora (2406.01775), corda (2406.05223) and
    lora_ga (2407.05000) take a part of the weights into the adapter; eva (2410.07170), corda and
    lora_ga read `init_rows` training rows first. What is saved is always a plain LoRA of the
    weights as they came, for these four of twice the rank: plainly saved, CorDA does not load and
    LoRA-GA loads wrong values.

    `quantize: 4bit` keeps the frozen weights in 4 bits (QLoRA, 2305.14314; a GPU and bitsandbytes);
    the adapter then belongs to the rounded weights and reloads on whole ones with their difference.

    The default rate is common practice for adapters.
    """

    name = "lora"
    about = About(
        sentence="Low-rank updates beside linear layers.",
        needs="nothing; eva, corda and lora_ga read some training rows first",
        cost="gradients and moments of the adapter alone",
        avoid="learning much that is new: a low rank holds little",
    )
    source = "arXiv 2106.09685"
    learning_rate = 2e-4

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: str | tuple[str, ...] = "all-linear"
    layers: tuple[int, ...] = ()
    rslora: bool = False
    dora: bool = False
    init: Init = "default"
    init_rows: int = 64
    corda_mode: Literal["ipm", "kpm"] = "ipm"
    trainable_tokens: tuple[int, ...] = ()
    plus_ratio: float = 1.0
    freeze_a: bool = False
    quantize: Literal["none", "4bit"] = "none"

    def check(self) -> None:
        """See `Method`."""
        if self.rank < 1 or self.alpha <= 0 or self.init_rows < 1 or not 0 <= self.dropout < 1:
            raise RecipeError(
                "lora: rank and init_rows must be at least 1, alpha above 0, dropout in [0, 1)"
            )
        if self.plus_ratio <= 0:
            raise RecipeError(f"lora: plus_ratio={self.plus_ratio}: expected a number above 0")
        moved = self.init in lora_init.RESIDUAL
        if moved and (self.dora or self.quantize != "none"):
            other = "dora" if self.dora else "quantize"
            raise RecipeError(
                f"lora: init {self.init} changes the weights under the adapter, which {other} "
                "cannot follow: use init default, eva or orthogonal"
            )

    def check_device(self, device: str) -> None:
        """See `Method`."""
        if self.quantize != "none":
            lora_init.check_quantize(device)

    def config(self, lm: Any, context: Context) -> Any:
        """See `Adapter`."""
        from peft import LoraConfig, TaskType

        return LoraConfig(
            task_type=TaskType.CAUSAL_LM,
            r=self.rank,
            # Whole numbers stay such in the saved file.
            lora_alpha=int(self.alpha) if self.alpha == int(self.alpha) else self.alpha,
            lora_dropout=self.dropout,
            target_modules=layers(lm, self.targets),
            layers_to_transform=list(self.layers) or None,
            use_rslora=self.rslora,
            use_dora=self.dora,
            trainable_token_indices=list(self.trainable_tokens) or None,
            **lora_init.settings(self.init, self.corda_mode),
        )

    def prepare(self, lm: Any, context: Context) -> Any:
        """See `Method`."""
        if self.quantize == "4bit":
            lora_init.quantize(lm, context.device)
        config = self.config(lm, context)
        with lora_init.data(self.init, lm, config, context, self.init_rows) as after:
            trained = wrapped(self.name, lm, lambda: config)
            after(trained)
        self.start = lora_init.Start(trained) if self.init in lora_init.RESIDUAL else None
        if self.freeze_a:
            for name, parameter in trained.named_parameters():
                if ".lora_A." in name:
                    parameter.requires_grad = False
        self.ranks = {n: len(a) for n, a in lora_init.factors(trained).items()}
        return trained

    def parameters(self, trained: Any, rate: float, decay: float) -> list[dict[str, Any]] | None:
        """See `Method`."""
        if self.plus_ratio == 1:
            return None
        fast: list[Any] = []
        slow: list[Any] = []
        for name, parameter in trained.named_parameters():
            if parameter.requires_grad:
                (fast if ".lora_B." in name else slow).append(parameter)
        return [
            {"params": slow, "lr": rate, "weight_decay": decay},
            {"params": fast, "lr": rate * self.plus_ratio, "weight_decay": decay},
        ]

    def state_dict(self) -> State:
        """See `Method`."""
        return ({} if self.start is None else self.start.tensors), {}

    def load_state_dict(self, tensors: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        """See `Method`."""
        if self.start is not None:
            self.start.restore(tensors)

    def save(self, lm: Any, trained: Any, folder: Path) -> None:
        """See `Method`."""
        if self.start is None:
            super().save(lm, trained, folder)
        else:
            self.start.save(trained, folder)

    def facts(self) -> dict[str, Any]:
        """The rank of every layer, where they differ."""
        return {"ranks": self.ranks} if len(set(self.ranks.values())) > 1 else {}
