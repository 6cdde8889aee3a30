"""What a row would teach a model: the norm of its gradient, and a projection of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from tamis import samples
from tamis.errors import RecipeError
from tamis.language import load
from tamis.language.forward import Engine
from tamis.language.gradients import Gradients
from tamis.recipe import Model
from tamis.scoring import answers
from tamis.scoring.base import Advance, Columns


@dataclass(frozen=True)
class Gradient:
    """Gradient of the mean answer NLL by the linear layers `modules` (none: all) of the last
    `blocks` blocks (0: all); of a model with an adapter, by the adapter's factors there.

    `norm` is that of the whole gradient, `vector` holds `dimension` numbers of it: random
    projections with entries +-1 on both sides of each layer's gradient, fixed by `seed`, whose dot
    products are those of the gradients on average. Answer tokens are those of `nll`; dropout is
    off. For GORACS (arXiv 2506.04015) and the effort of DEALRec (arXiv 2401.17197): `modules:
    [v_proj]`; for LESS (arXiv 2402.04333): the four projections of attention and `blocks: 0`; for
    Adapt-infinity (arXiv 2410.10636), one block. Cost: a forward pass, and a backward pass to the
    first of the layers.
    """

    model: Model
    device: str
    modules: tuple[str, ...] = ()
    blocks: int = 1
    dimension: int = 1024
    seed: int = 0

    name: ClassVar[str] = "gradient"
    version: ClassVar[int] = 1
    about: ClassVar[Mapping[str, str]] = {
        "sentence": "What a row would teach a model: the norm and a projection of its gradient.",
        "needs": "a causal language model, best one tuned briefly on such rows",
        "view": "answer, given all before it",
        "cost": "with one block 1.5 times that of nll, with all blocks 3 times; 4 kB a row on disk",
        "avoid": "the norm alone on noisy data: wrong rows have large gradients too",
    }
    fields = ("norm", "vector", "tokens", "cut", "reason")

    def identity(self) -> Mapping[str, Any]:
        """The model, the layers and the projection."""
        return {
            "model": load.identity(self.model),
            "modules": list(self.modules),
            "blocks": self.blocks,
            "dimension": self.dimension,
            "seed": self.seed,
        }

    def check(self) -> None:
        """Raise if the model is not there or an option is out of range."""
        load.check(self.model)
        if self.blocks < 0 or self.dimension < 1 or self.seed < 0:
            raise RecipeError("gradient needs blocks >= 0, dimension >= 1 and seed >= 0")

    @property
    def warnings(self) -> list[str]:
        """None."""
        return []

    @cached_property
    def _gradients(self) -> Gradients:
        engine = Engine(self.model, self.device)
        return Gradients(engine, self.modules, self.blocks, self.dimension, self.seed)

    def score(self, batch: pa.RecordBatch, *, advance: Advance) -> Columns:
        """`norm` float64 and `vector` float32 (n, dimension), NaN with a `reason`."""
        prepared = answers.prepare(
            self._gradients.engine,
            samples.decode_messages(batch.column("messages")),
            samples.decode_tools(batch.column("tools")),
            alone=False,
        )
        scored = prepared.scored
        advance(len(batch) - len(scored))
        found = self._gradients.run(
            [answer.conditional for answer in scored.values()], done=lambda rows: advance(len(rows))
        )
        norm = np.full(len(batch), np.nan)
        vector = np.full((len(batch), self.dimension), np.nan, dtype=np.float32)
        for row, values in zip(scored, found, strict=True):
            norm[row], vector[row] = values
        return {"norm": norm, "vector": vector, **prepared.facts}
