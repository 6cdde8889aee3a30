"""NeuroAda: a few entries of every neuron, those that are largest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tamis.errors import RecipeError
from tamis.selectors.base import About
from tamis.trainer.methods.base import Context, Method, State
from tamis.trainer.methods.parts import linears, whole_weights
from tamis.trainer.methods.sparse import attach


@dataclass
class NeuroAda(Method):
    """In each row of every linear layer, a change of the `per_row` entries of largest size is
    trained; it begins at 0, and weight decay draws it there (arXiv 2510.18940). A row that has no
    more entries is trained whole.

    The gradient of the entries is gathered a block of tokens at a time, never made for a whole
    matrix. What is saved is the whole model: the number of entries is rarely one that an adapter of
    peft can hold. The default rate is the authors' for one entry; for 20 they take 3e-3.
    """

    name = "neuroada"
    about = About(
        sentence="The largest entries of every row of each matrix.",
        needs="nothing",
        cost="gradients and moments of the entries alone",
        avoid="FSDP or ZeRO; many entries a row, where gathering is slower than lift",
    )
    source = "arXiv 2510.18940"
    kind = "full"
    learning_rate = 8e-3

    per_row: int = 1
    targets: str | tuple[str, ...] = "all-linear"

    def check(self) -> None:
        """See `Method`."""
        if self.per_row < 1:
            raise RecipeError(f"neuroada: per_row={self.per_row}: expected at least 1")
        whole_weights(self.name)

    def prepare(self, lm: Any, context: Context) -> Any:
        """See `Method`."""
        found = linears(lm, self.targets)
        self.entries = attach(found, self.chosen, dense=False, delta=True)
        return lm

    def chosen(self, weight: Any) -> Any:
        """The flat indices of the entries of a weight (m, n) to train, ascending."""
        import torch

        width = weight.shape[1]
        count = min(self.per_row, width)
        column = torch.topk(weight.abs(), count, dim=1).indices.sort(dim=1).values
        row = torch.arange(len(weight), device=weight.device)[:, None]
        return (row * width + column).flatten()

    def step_end(self, step: int) -> None:
        """See `Method`."""
        for entries in self.entries.values():
            entries.write()

    def state_dict(self) -> State:
        """Which entries are trained."""
        return {f"{name}.index": e.index for name, e in self.entries.items()}, {}

    def load_state_dict(self, tensors: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        """See `Method`. The entries follow from the weights as they came, so they are the same."""
        for entries in self.entries.values():
            entries.write()

    def save(self, lm: Any, trained: Any, folder: Path) -> None:
        """See `Method`."""
        for entries in self.entries.values():
            entries.release()
        lm.save_pretrained(folder)
