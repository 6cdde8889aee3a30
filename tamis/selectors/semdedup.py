"""Drop semantic copies: inside clusters, rows too similar to an earlier one go first (SemDeDup)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from tamis.errors import RecipeError
from tamis.numerics.blocked import rows_per_block, unit64, unit_rows
from tamis.numerics.kmeans import Engine, cluster
from tamis.selectors import checks
from tamis.selectors.base import About, Pool, Selection

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class SemDeDup:
    """Keep the k rows with the smallest largest cosine to an earlier row of their cluster.

    Rows of a cluster are ordered by `keep`: `far` from the centre first (the paper's choice),
    `near` it, or by row number (`first`); M of a row is its largest cosine with the rows before
    it, dropped ones included; the first of each cluster has M = -1. With `epsilon`, rows with
    M > 1 - epsilon are never kept. Ties in M go to the lowest row; the gain is 1 - M.

    Time O(n K d) a k-means iteration and O(sum of squared cluster sizes x d); memory one block.

    Source: Abbas et al., "SemDeDup", 2023 (arXiv 2303.09540). Differs from the authors' code: a
    budget takes the place of a search for epsilon; cosines in float64.
    """

    embedding: str = "embed.vector"
    clusters: int = 100
    keep: Literal["far", "near", "first"] = "far"
    epsilon: float | None = None
    engine: Engine = "numpy"

    name: ClassVar[str] = "semdedup"
    prefix: ClassVar[bool] = True
    version: ClassVar[int] = 2
    about: ClassVar[About] = About(
        sentence="Drops rows that say the same as another row of their cluster.",
        needs="an embedding",
        cost="half a minute on two cores",
        avoid="as the only method on noisy data: it knows nothing of quality",
    )

    def __post_init__(self) -> None:
        if self.clusters < 1:
            raise RecipeError(f"semdedup.clusters must be 1 or more, got {self.clusters}")
        if self.epsilon is not None and not 0 <= self.epsilon <= 2:
            raise RecipeError(f"semdedup.epsilon must be between 0 and 2, got {self.epsilon}")

    def needs(self) -> frozenset[str]:
        """The embedding."""
        return frozenset({self.embedding})

    def select(self, pool: Pool, k: int, *, rng: np.random.Generator) -> Selection:
        """Rows by rising M."""
        k = checks.budget(k, pool.n)
        x = unit_rows(checks.matrix(pool, self.embedding))
        if pool.n == 0:
            empty = np.empty(0, dtype=np.int64)
            return Selection(empty, np.empty(0), rows={"reason": np.empty(0, dtype=object)})
        found = cluster(x, self.clusters, rng=rng, engine=self.engine)
        order = self._order(x, found.labels, found.centres)
        value, nearest = earlier_maximum(x, found.labels, order)
        rank = np.argsort(value, kind="stable").astype(np.int64)
        allowed = rank if self.epsilon is None else rank[value[rank] <= 1 - self.epsilon]
        index = allowed[:k]
        reason = checks.reasons(pool.n, "too_similar", index)
        reason[allowed[k:]] = "over_budget"
        # A row may be like one that was dropped itself: then no kept row is named.
        kept = np.isin(nearest, index)
        rows = {
            "reason": reason,
            "cluster": found.labels,
            "nearest_kept": np.where(kept, nearest, -1),
            "similarity": np.where(kept, value, np.nan),
        }
        facts: dict[str, float | int | str] = {
            "clusters": len(found.centres),
            "engine": found.engine,
        }
        if len(index):
            facts["similarity_cut"] = float(value[index[-1]])
        return Selection(index, 1 - value[index], facts=facts, rows=rows)

    def _order(self, x: F32, labels: Rows, centres: F32) -> Rows:
        if self.keep == "first":
            return np.arange(len(x), dtype=np.int64)
        towards = unit64(centres)[labels]
        cosine = np.round((unit64(x) * towards).sum(axis=1), 12)
        key = cosine if self.keep == "far" else -cosine
        return np.argsort(key, kind="stable").astype(np.int64)


def earlier_maximum(x: F32, labels: Rows, order: Rows) -> tuple[F64, Rows]:
    """For each row its largest cosine with the rows of its cluster before it in `order`.

    Returns (largest cosine, -1 for the first of a cluster; the row it is with, -1 for none).
    Cosines are rounded to 12 digits, so copies tie; ties go to the row earliest in `order`.
    """
    value = np.full(len(x), -1.0)
    nearest = np.full(len(x), -1, dtype=np.int64)
    grouped = order[np.argsort(labels[order], kind="stable")]
    starts = np.flatnonzero(np.diff(labels[grouped], prepend=-1))
    for members in np.split(grouped, starts[1:]):
        unit = unit64(x[members])
        step = rows_per_block(len(members))
        for start in range(0, len(members), step):
            stop = min(start + step, len(members))
            cosine = np.round(unit[start:stop] @ unit[:stop].T, 12)
            later = np.arange(stop) >= np.arange(start, stop)[:, None]
            cosine[later] = -np.inf
            best = cosine.argmax(axis=1)
            top = cosine[np.arange(stop - start), best]
            some = top > -np.inf
            value[members[start:stop][some]] = np.clip(top[some], -1, 1)
            nearest[members[start:stop][some]] = members[best[some]]
    return value, nearest
