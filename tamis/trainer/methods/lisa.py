"""LISA: a few layers at a time, drawn anew every so many steps."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from tamis.errors import RecipeError
from tamis.selectors.base import About
from tamis.trainer.methods.base import Context, Method
from tamis.trainer.methods.parts import blocks, whole_weights


@dataclass
class Lisa(Method):
    """Every `interval` steps `layers` transformer layers are drawn without replacement and trained
    while the others rest; embeddings, last norm and output layer are always trained
    (arXiv 2403.17919).

    Layers that come to rest lose their moments, which is what saves memory; when drawn again their
    bias correction begins anew. `keep_moments` leaves them, at the memory of full fine-tuning. The
    draw follows from the run's seed and the step alone, so it is the same in every process and
    after a resume.

    Differs from the authors' code, which draws from numpy's global generator and keeps moments.
    """

    name = "lisa"
    about = About(
        sentence="A few whole layers at a time, others drawn every few steps.",
        needs="nothing",
        cost="all weights, gradients and moments of the drawn layers, embeddings and output layer",
        avoid="FSDP or ZeRO; runs shorter than a few intervals",
    )
    source = "arXiv 2403.17919"
    kind = "full"
    learning_rate = 2e-5
    rests = True

    layers: int = 2
    interval: int = 20
    keep_moments: bool = False

    def check(self) -> None:
        """See `Method`."""
        if self.layers < 1 or self.interval < 1:
            raise RecipeError("lisa: layers and interval must be at least 1")
        whole_weights(self.name)

    def prepare(self, lm: Any, context: Context) -> Any:
        """See `Method`."""
        self.blocks = list(blocks(lm).values())
        if self.layers > len(self.blocks):
            raise RecipeError(
                f"lisa: layers={self.layers}, but the model has {len(self.blocks)} of them"
            )
        self.seed, self.steps = context.seed, context.steps
        return lm.requires_grad_(True)

    def drawn(self, step: int) -> list[int]:
        """The layers that are trained at a step (from 0), ascending."""
        rng = np.random.default_rng([self.seed % 2**64, step // self.interval])
        found = rng.choice(len(self.blocks), self.layers, replace=False)
        return sorted(int(i) for i in found)

    def step_begin(self, step: int, optimizer: Any) -> None:
        """See `Method`. Freezing any earlier would keep layers out of the optimizer for good."""
        active = set(self.drawn(step))
        for i, block in enumerate(self.blocks):
            for parameter in block.parameters():
                parameter.requires_grad_(i in active)
                if i not in active:
                    parameter.grad = None
                    if not self.keep_moments:
                        optimizer.state.pop(parameter, None)

    def trainable(self, trained: Any) -> int:
        """See `Method`: the layers that rest are not among them."""
        inside = [sum(p.numel() for p in block.parameters()) for block in self.blocks]
        outside = sum(p.numel() for p in trained.parameters()) - sum(inside)
        return outside + sum(inside[i] for i in self.drawn(0))

    def facts(self) -> dict[str, Any]:
        """How many steps each layer was trained."""
        seen = Counter(i for step in range(self.steps) for i in self.drawn(step))
        return {"steps_of_layer": [seen[i] for i in range(len(self.blocks))]}
