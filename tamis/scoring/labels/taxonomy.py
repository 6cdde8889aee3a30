"""Labels from a fixed list of names, given to the rows by embedding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from tamis.errors import DataError, RecipeError
from tamis.recipe import Model
from tamis.scoring.base import Advance, PoolColumns, Rows
from tamis.scoring.encoder import Encoder
from tamis.scoring.labels import names
from tamis.scoring.labels.names import NO_VECTOR


@dataclass(frozen=True)
class Taxonomy:
    """Each row gets the `most` of the `names` whose embedding is nearest, from cosine `least` on.

    Nothing is trained. The rows' `embedding` must come from the same encoder as the names, which
    are embedded here; a short phrase works better than a word. `best` is the nearest name whatever
    its cosine, `cosine` how near it is. Rows below `least` have no label.

    Cost: one embedding a name, O(n L d).
    """

    model: Model | str | None
    device: str
    names: tuple[str, ...]
    most: int = 2
    least: float = 0.2
    embedding: str = "embed.vector"

    name: ClassVar[str] = "taxonomy"
    version: ClassVar[int] = 2
    encoder: ClassVar[bool] = True
    about: ClassVar[Mapping[str, str]] = {
        "sentence": "Labels: the nearest of a list of names that you give.",
        "needs": "names of topics or abilities, an embedding of the rows and its encoder",
        "view": "none: it reads columns",
        "cost": "seconds",
        "avoid": "when a name does not say what belongs to it: look at cosine first",
    }
    fields = ("labels", "best", "cosine", "reason")

    def needs(self) -> frozenset[str]:
        """The embedding of the rows."""
        return frozenset({self.embedding})

    def identity(self) -> Mapping[str, Any]:
        """The options and the encoder."""
        return {
            "names": list(self.names),
            "most": self.most,
            "least": self.least,
            "embedding": self.embedding,
            "encoder": self._encoder.identity(),
        }

    def check(self) -> None:
        """Raise if there are no names, an option is out of range or the encoder is missing."""
        if not self.names or len(set(self.names)) != len(self.names) or not all(self.names):
            raise RecipeError("taxonomy.names must hold different names, at least one")
        if self.most < 1 or not -1 <= self.least <= 1:
            raise RecipeError("taxonomy needs most >= 1 and least between -1 and 1")
        self._encoder.check()

    @property
    def warnings(self) -> list[str]:
        """Those of the encoder."""
        return self._encoder.warnings

    def score_pool(self, rows: Rows, *, advance: Advance) -> PoolColumns:
        """`labels`, nearest first; `best` and `cosine`, undefined with a `reason` where a row has
        no vector."""
        vectors = np.asarray(rows.columns[self.embedding])
        places, _ = self._encoder.encode(self.names)
        if vectors.shape[1] != places.shape[1]:
            raise DataError(
                f"taxonomy: {self.embedding} has {vectors.shape[1]} numbers a row and the encoder "
                f"of the names gives {places.shape[1]}; name the same model for both"
            )
        lists: list[list[str]] = [[] for _ in range(rows.n)]
        best = np.full(rows.n, None, dtype=object)
        nearness = np.full(rows.n, np.nan)
        for part, order, near in names.nearest(vectors, places, self.most):
            nearness[part] = near[:, 0]
            for row, columns, values in zip(part.tolist(), order, near, strict=True):
                best[row] = self.names[columns[0]]
                lists[row] = [self.names[c] for c in columns[values >= self.least].tolist()]
            advance(len(part))
        labels = {"name": np.array(self.names, dtype=object), "embedding": places}
        facts = {"labels": len(self.names), "unlabelled_rows": sum(not row for row in lists)}
        columns = {"labels": names.column(lists), "best": best, "cosine": nearness}
        columns["reason"] = np.where(np.isnan(nearness), NO_VECTOR, None)
        return PoolColumns(columns, labels, facts)

    @cached_property
    def _encoder(self) -> Encoder:
        return Encoder(self.model, self.device, self.name)
