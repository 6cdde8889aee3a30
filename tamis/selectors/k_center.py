"""Farthest-first: the farthest row is as near as possible to a pick (k-center)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from tamis.errors import DataError
from tamis.numerics.blocked import rows_per_block, slack, unit_rows
from tamis.selectors import checks
from tamis.selectors.base import About, Pool, Selection

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class KCenter:
    """Start at a row, then always take the row farthest from its nearest pick; ties to the lowest.

    Within a factor 2 of the smallest possible radius. `start`: `mean` (the row nearest to the mean
    of the pool), `random`, or a row number. Distances are Euclidean, on unit rows unless
    `normalize` is off. The gain of a pick is its distance to the picks before it (the first: to
    the farthest row). A picked row is never picked again, so copies come last.

    Time O(n k d) in k matrix-vector products, memory O(n); exact distances in float64.

    Source: Gonzalez, "Clustering to minimize the maximum intercluster distance", 1985; as data
    selection Sener and Savarese, 2018 (arXiv 1708.00489), whose mixed-integer refinement is left
    out.
    """

    embedding: str = "embed.vector"
    start: int | Literal["mean", "random"] = "mean"
    normalize: bool = True

    name: ClassVar[str] = "k_center"
    prefix: ClassVar[bool] = True
    version: ClassVar[int] = 1
    about: ClassVar[About] = About(
        sentence="Always takes the row farthest from everything taken so far.",
        needs="an embedding",
        cost="10 s on two cores for 1,000 picks at 384 dimensions",
        avoid="on noisy pools: outliers and broken rows are picked first",
    )

    def needs(self) -> frozenset[str]:
        """The embedding."""
        return frozenset({self.embedding})

    def select(self, pool: Pool, k: int, *, rng: np.random.Generator) -> Selection:
        """Picks in farthest-first order; `radius` is the largest distance left."""
        k = checks.budget(k, pool.n)
        x = checks.matrix(pool, self.embedding)
        if self.normalize:
            x = unit_rows(x)
        index = np.empty(0, dtype=np.int64)
        gain = np.empty(0)
        nearest = np.full(pool.n, -1, dtype=np.int64)
        distance = np.full(pool.n, np.inf)
        if k:
            index, gain, nearest, distance = farthest_first(x, k, self._first(x, rng))
        left = np.delete(distance, index)
        facts = {"radius": float(np.sqrt(left.max(initial=0.0)))} if k else {}
        rows = {"reason": checks.reasons(pool.n, "covered", index), "nearest_kept": nearest}
        with np.errstate(invalid="ignore"):
            # On unit rows the squared distance is 2 - 2 cos.
            rows["similarity"] = 1 - distance / 2 if self.normalize else -np.sqrt(distance)
        rows["similarity"][~np.isfinite(rows["similarity"])] = np.nan
        return Selection(index, gain, facts=facts, rows=rows)

    def _first(self, x: F32, rng: np.random.Generator) -> int:
        if self.start == "random":
            return int(rng.integers(len(x)))
        if self.start == "mean":
            return int(np.argmin(_squared(x, x.mean(axis=0, dtype=np.float64))))
        if not 0 <= self.start < len(x):
            raise DataError(f"k_center.start is row {self.start}, the pool has {len(x)} rows")
        return self.start


def farthest_first(x: F32, k: int, first: int) -> tuple[Rows, F64, Rows, F64]:
    """k rows of `x` (n, d) from `first` on: (rows, distance when picked, nearest pick of each row,
    squared distance to it). Needs 1 <= k <= n."""
    index, gain = [first], [0.0]
    distance = _squared(x, x[first].astype(np.float64))
    gain[0] = float(np.sqrt(distance.max()))
    nearest = np.full(len(x), first, dtype=np.int64)
    squares = np.einsum("ij,ij->i", x, x)
    open_distance = distance.copy()
    open_distance[first] = -1.0
    margin = 4 * slack(x.shape[1]) * max(float(squares.max()), 1e-30)
    while len(index) < k:
        row = int(open_distance.argmax())
        index.append(row)
        gain.append(float(np.sqrt(open_distance[row])))
        open_distance[row] = -1.0
        # float32 tells which rows may have come nearer; only those are computed in float64.
        rough = squares - 2 * (x @ x[row]) + squares[row]
        near = np.flatnonzero(rough <= distance + margin)
        exact = _squared(x[near], x[row].astype(np.float64))
        closer = exact < distance[near]
        near, exact = near[closer], exact[closer]
        distance[near], nearest[near] = exact, row
        open_distance[near] = np.where(open_distance[near] < 0, -1.0, exact)
    picked = np.asarray(index, dtype=np.int64)
    distance[picked], nearest[picked] = 0.0, picked
    return picked, np.asarray(gain), nearest, distance


def _squared(x: F32, centre: F64) -> F64:
    square = np.empty(len(x))
    step = rows_per_block(x.shape[1])
    for start in range(0, len(x), step):
        gap = x[start : start + step] - centre
        square[start : start + step] = (gap * gap).sum(axis=1)
    return square
