"""LoRA: low-rank updates beside linear layers."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

from tamis.errors import RecipeError
from tamis.selectors.base import About
from tamis.trainer.methods.base import Context, Method


@dataclass
class Lora(Method):
    """W + (alpha / rank) B A, with A and B trained (arXiv 2106.09685), by peft.

    The default rate is common practice for adapters.
    """

    name = "lora"
    about = About(
        sentence="low-rank updates beside linear layers",
        needs="nothing",
        cost="gradients and moments of the adapter alone",
        avoid="learning much that is new: a low rank holds little",
    )
    source = "arXiv 2106.09685"
    kind = "adapter"
    learning_rate = 2e-4

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    targets: str | tuple[str, ...] = "all-linear"

    def prepare(self, lm: Any, context: Context) -> Any:
        """See `Method`."""
        from peft import LoraConfig, TaskType, get_peft_model

        wanted = self.targets
        head = {name.split(".")[-1] for name, m in lm.named_modules() if _is_head(lm, m)}
        if not isinstance(wanted, str) and head & {name.split(".")[-1] for name in wanted}:
            raise RecipeError(
                f"tune.options.targets names the output layer {sorted(head)[0]!r}: the loss never "
                "calls that layer as a whole; leave it out"
            )
        config = LoraConfig(
            task_type=TaskType.CAUSAL_LM,
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=wanted if isinstance(wanted, str) else list(wanted),
        )
        try:
            with warnings.catch_warnings():
                # peft reads an attribute under the name it had before.
                warnings.simplefilter("ignore", FutureWarning)
                return get_peft_model(lm, config)
        except ValueError as error:
            raise RecipeError(
                f"tune.options.targets {wanted!r}: {str(error).splitlines()[0]}"
            ) from error


def _is_head(model: Any, module: Any) -> bool:
    return module is model.get_output_embeddings()
