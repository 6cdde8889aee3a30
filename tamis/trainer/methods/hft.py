"""HFT: half of every layer is trained, the other half stays as it was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tamis.errors import RecipeError
from tamis.selectors.base import About
from tamis.trainer.methods.base import Context, Method
from tamis.trainer.methods.parts import blocks, whole_weights


@dataclass
class Hft(Method):
    """In every transformer layer a random half of the matrices of each kind is trained, and half of
    the norms; the others stay, which keeps what the model knew (arXiv 2404.18466).

    Kinds are the parts of a layer (attention, feed-forward) and its norms. Where `share` of a kind
    is no whole number, a random part of the layers gets one more, so that the share holds over the
    model: of three feed-forward matrices half of the layers train two, the others one. The draw
    follows from the run's seed and holds for the whole run, which is a stage of the paper;
    `redraw: epoch` draws anew where an epoch begins, and what comes to rest loses its moments.
    Embeddings, last norm and output layer are trained unless `freeze_embeddings`.

    There is no code of the authors; the counts within a kind and what becomes of the embeddings are
    our reading, and `redraw: epoch` is what a summary of the paper says. With grouped heads half of
    the matrices is not half of the numbers: the report has the exact share.
    """

    name = "hft"
    about = About(
        sentence="A random half of every layer's matrices.",
        needs="nothing",
        cost="gradients and moments of half of the layers' weights",
        avoid="little memory: half of full fine-tuning is still much",
    )
    source = "arXiv 2404.18466"
    kind = "full"
    learning_rate = 2e-5

    share: float = 0.5
    freeze_embeddings: bool = False
    redraw: Literal["stage", "epoch"] = "stage"

    def check(self) -> None:
        """See `Method`."""
        if not 0 < self.share <= 1:
            raise RecipeError(f"hft: share={self.share}: expected above 0 and at most 1")
        self.rests = self.redraw == "epoch"
        if self.rests:
            whole_weights(f"{self.name} with redraw: epoch", "redraw: stage")

    def prepare(self, lm: Any, context: Context) -> Any:
        """See `Method`."""
        self.blocks, self.context = list(blocks(lm).values()), context
        lm.requires_grad_(not self.freeze_embeddings)
        drawn = self._drawn(0)
        for parameter in self._inside():
            parameter.requires_grad_(self.rests or id(parameter) in drawn)
        names = [n for n, p in lm.named_parameters() if p.requires_grad and not self.rests]
        part = sum(p.numel() for p in self._inside() if id(p) in drawn)
        self.found = {
            "share_of_layers": part / sum(p.numel() for p in self._inside()),
            **({"epochs": 1 + context.epoch(context.steps - 1)} if self.rests else {}),
            "trained": names,
        }
        self.epoch: int | None = None
        return lm

    def step_begin(self, step: int, optimizer: Any) -> None:
        """See `Method`: where an epoch begins, other parts are trained."""
        if not self.rests or self.context.epoch(step) == self.epoch:
            return
        self.epoch = self.context.epoch(step)
        drawn = self._drawn(self.epoch)
        for parameter in self._inside():
            parameter.requires_grad_(id(parameter) in drawn)
            if id(parameter) not in drawn:
                parameter.grad = None
                optimizer.state.pop(parameter, None)

    def trainable(self, trained: Any) -> int:
        """See `Method`: those of the first draw."""
        drawn = self._drawn(0)
        rest = {id(p): p for p in self._inside() if id(p) not in drawn}
        return sum(p.numel() for p in trained.parameters() if p.requires_grad and id(p) not in rest)

    def _inside(self) -> list[Any]:
        return [p for block in self.blocks for p in block.parameters()]

    def _drawn(self, epoch: int) -> set[int]:
        """The parameters of layers that are trained in an epoch, by identity."""
        seed = self.context.seed % 2**64
        rng = np.random.default_rng([seed, epoch] if epoch else seed)
        kinds: dict[str, list[list[Any]]] = {}
        for block in self.blocks:
            for kind, units in _kinds(block).items():
                kinds.setdefault(kind, []).append(units)
        drawn = set()
        for found in kinds.values():
            for units, count in zip(found, _counts(found, self.share, rng), strict=True):
                for i in rng.permutation(len(units))[:count]:
                    drawn |= {id(p) for p in units[i].parameters()}
        return drawn

    def facts(self) -> dict[str, Any]:
        """The exact share of the layers' numbers that is trained and the names of all that is; with
        `redraw: epoch` the share of the first epoch, and how many epochs there are."""
        return self.found


def _kinds(block: Any) -> dict[str, list[Any]]:
    """The modules of a layer that own parameters, by the part they stand in; norms are one kind."""
    found: dict[str, list[Any]] = {}
    for name, module in block.named_modules():
        own = list(module.parameters(recurse=False))
        if own:
            norm = all(p.ndim < 2 for p in own)
            found.setdefault("norm" if norm else name.split(".")[0], []).append(module)
    return found


def _counts(units: list[list[Any]], share: float, rng: np.random.Generator) -> list[int]:
    """How many of the units of each layer are trained: `share` of all, as evenly as can be."""
    exact = [share * len(own) for own in units]
    counts = [int(value) for value in exact]
    more = round(sum(exact)) - sum(counts)
    # Whoever loses most by rounding down comes first; ties are drawn.
    order = sorted(rng.permutation(len(units)), key=lambda i: counts[i] - exact[i])
    for i in order[:more]:
        counts[i] += 1
    return counts
