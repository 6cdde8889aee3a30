"""HFT: half of every layer is trained, the other half stays as it was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tamis.errors import RecipeError
from tamis.selectors.base import About
from tamis.trainer.methods.base import Context, Method
from tamis.trainer.methods.parts import blocks


@dataclass
class Hft(Method):
    """In every transformer layer a random half of the matrices of each kind is trained, and half of
    the norms; the others stay, which keeps what the model knew (arXiv 2404.18466).

    Kinds are the parts of a layer (attention, feed-forward) and its norms. Where `share` of a kind
    is no whole number, a random part of the layers gets one more, so that the share holds over the
    model: of three feed-forward matrices half of the layers train two, the others one. The draw
    follows from the run's seed and holds for the whole run. Embeddings, last norm and output layer
    are trained unless `freeze_embeddings`.

    There is no code of the authors; the counts within a kind and what becomes of the embeddings are
    our reading. With grouped heads half of the matrices is not half of the numbers: the report has
    the exact share.
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

    def check(self) -> None:
        """See `Method`."""
        if not 0 < self.share <= 1:
            raise RecipeError(f"hft: share={self.share}: expected above 0 and at most 1")

    def prepare(self, lm: Any, context: Context) -> Any:
        """See `Method`."""
        rng = np.random.default_rng(context.seed % 2**64)
        layers = blocks(lm)
        lm.requires_grad_(not self.freeze_embeddings)
        for block in layers.values():
            block.requires_grad_(False)
        kinds: dict[str, list[list[Any]]] = {}
        for block in layers.values():
            for kind, units in _kinds(block).items():
                kinds.setdefault(kind, []).append(units)
        for found in kinds.values():
            for units, count in zip(found, _counts(found, self.share, rng), strict=True):
                for i in rng.permutation(len(units))[:count]:
                    units[i].requires_grad_(True)
        inside = [p for block in layers.values() for p in block.parameters()]
        part = sum(p.numel() for p in inside if p.requires_grad)
        self.found = {
            "share_of_layers": part / sum(p.numel() for p in inside),
            "trained": [n for n, p in lm.named_parameters() if p.requires_grad],
        }
        return lm

    def facts(self) -> dict[str, Any]:
        """The exact share of the layers' numbers that is trained, and the names of all that is."""
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
