"""Full fine-tuning of the upper layers alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from tamis.errors import RecipeError
from tamis.selectors.base import About
from tamis.trainer.methods.base import Context, Method
from tamis.trainer.methods.parts import blocks


@dataclass
class FreezeBottom(Method):
    """The embeddings and the lowest `layers` transformer layers stay; all above is trained
    (Telly-K, arXiv 2304.05216). An output layer that shares the embeddings' weights stays too.
    """

    name = "freeze_bottom"
    about = About(
        sentence="Every parameter above the lowest layers.",
        needs="nothing",
        cost="gradients and moments of the upper layers; no backward pass through the lower ones",
        avoid="new vocabulary or another language, which the lowest layers must learn",
    )
    source = "arXiv 2304.05216"
    kind = "full"
    learning_rate = 2e-5
    example: ClassVar[Mapping[str, Any]] = {"layers": 1}

    layers: int

    def check(self) -> None:
        """See `Method`."""
        if self.layers < 0:
            raise RecipeError(f"freeze_bottom: layers={self.layers}: expected 0 or more")

    def prepare(self, lm: Any, context: Context) -> Any:
        """See `Method`."""
        found = list(blocks(lm).values())
        if self.layers >= len(found):
            raise RecipeError(
                f"freeze_bottom: layers={self.layers} leaves none of the model's {len(found)} "
                "layers to train"
            )
        lm.requires_grad_(True)
        lm.get_input_embeddings().requires_grad_(False)
        for block in found[: self.layers]:
            block.requires_grad_(False)
        return lm
