"""Labels out of clusters of an embedding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tamis.errors import RecipeError
from tamis.numerics.blocked import unit_rows
from tamis.numerics.kmeans import cluster
from tamis.scoring.base import Advance, PoolColumns, Rows
from tamis.scoring.labels import names
from tamis.scoring.labels.names import NO_VECTOR


@dataclass(frozen=True)
class Clusters:
    """k-means on unit vectors; a row has the `most` nearest centres as labels, `c0`, `c1` ...

    Centres below cosine `floor` are left out, but for the nearest: so rows between topics share
    labels, and every row has one. The embedding of a label is its centre, scaled to length 1.
    `cluster` is the number of the nearest. Rows without a vector have no label.

    O(n k d) an iteration and O(n k d) for the labels, in blocks.
    """

    clusters: int = 100
    most: int = 2
    floor: float = 0.5
    embedding: str = "embed.vector"
    seed: int = 0

    name: ClassVar[str] = "clusters"
    version: ClassVar[int] = 2
    about: ClassVar[Mapping[str, str]] = {
        "sentence": "Labels: the nearest of the clusters of an embedding.",
        "needs": "an embedding",
        "view": "none: it reads columns",
        "cost": "about a minute per 100k rows with 100 clusters on two CPU cores",
        "avoid": "when the topics have names already: tags and metadata can be read",
    }
    fields = ("labels", "cluster", "reason")

    def needs(self) -> frozenset[str]:
        """The embedding."""
        return frozenset({self.embedding})

    def identity(self) -> Mapping[str, Any]:
        """The options."""
        return {
            "clusters": self.clusters,
            "most": self.most,
            "floor": self.floor,
            "embedding": self.embedding,
            "seed": self.seed,
        }

    def check(self) -> None:
        """Raise if an option is out of range."""
        if self.clusters < 1 or self.most < 1 or not -1 <= self.floor <= 1:
            raise RecipeError("clusters needs clusters >= 1, most >= 1 and floor between -1 and 1")

    def score_pool(self, rows: Rows, *, advance: Advance) -> PoolColumns:
        """`labels`, nearest first, and `cluster`, NaN with a `reason` where a row has no
        vector."""
        vectors = np.asarray(rows.columns[self.embedding])
        some = np.flatnonzero(np.isfinite(vectors).all(axis=1))
        lists: list[list[str]] = [[] for _ in range(rows.n)]
        nearest = np.full(rows.n, np.nan)
        reason = np.full(rows.n, NO_VECTOR, dtype=object)
        reason[some] = None
        if not len(some):
            found = {"labels": names.column(lists), "cluster": nearest, "reason": reason}
            return PoolColumns(found)
        x = unit_rows(vectors[some])
        found = cluster(x, self.clusters, rng=np.random.default_rng(self.seed))
        centres = unit_rows(found.centres)
        for part, order, cosine in names.nearest(x, centres, self.most):
            kept = cosine >= self.floor
            kept[:, 0] = True
            nearest[some[part]] = order[:, 0]
            for row, near, keep in zip(some[part], order, kept, strict=True):
                lists[row] = [f"c{c}" for c in near[keep].tolist()]
            advance(len(part))
        labels = {
            "name": np.array([f"c{c}" for c in range(len(centres))], dtype=object),
            "embedding": centres,
        }
        facts = {"clusters": len(centres), "inertia": round(found.inertia, 3)}
        columns = {"labels": names.column(lists), "cluster": nearest, "reason": reason}
        return PoolColumns(columns, labels, facts)
