"""Rows that represent all others best: greedy facility location."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from tamis.errors import RecipeError
from tamis.numerics import greedy
from tamis.numerics.blocked import CELLS, rows_per_block, unit64
from tamis.numerics.neighbours import most_similar
from tamis.selectors import checks
from tamis.selectors.base import About, Array, Pool, Selection

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Rows = NDArray[np.int64]

# A similarity matrix of up to this many cells (float32: 1.6 GB) is kept; beyond, it is recomputed.
_STORED = 400_000_000


@dataclass(frozen=True)
class FacilityLocation:
    """Greedily maximise the sum over all rows of the similarity to their most similar pick.

    f(S) = sum_i max(0, max over j in S of cos(x_i, x_j)); greedy is within 1 - 1/e of the best.
    `neighbours` keeps only that many most similar rows of each row (itself included) and counts
    others as 0: sparse, for large pools. `greedy="stochastic"` looks at a random sample a pick
    (`epsilon`). `partitions` > 1 picks k rows in each of so many random parts and then k among
    those (GreeDi). The gain of a pick is what it adds to f.

    Lazy greedy gives the picks of plain greedy. Time O(n^2 d) once, then a few dozen rows a pick;
    the n x n similarities are kept up to 20,000 rows and recomputed in blocks beyond.

    Source: facility location as data selection: Lin and Bilmes 2011; Minoux 1978 (lazy);
    Mirzasoleiman et al. 2013 (GreeDi, NeurIPS) and 2015 (stochastic, arXiv 1409.7938).
    """

    embedding: str = "embed.vector"
    neighbours: int | None = None
    greedy: Literal["lazy", "stochastic"] = "lazy"
    epsilon: float = 0.05
    partitions: int = 1

    name: ClassVar[str] = "facility_location"
    version: ClassVar[int] = 1
    about: ClassVar[About] = About(
        sentence="Takes the rows to which all other rows are most similar, one after another.",
        needs="an embedding",
        cost="minutes on two cores at 384 dimensions; set neighbours for large pools",
        avoid="when rare rows matter most: it prefers the dense middle of the pool",
    )

    def __post_init__(self) -> None:
        if self.neighbours is not None and self.neighbours < 1:
            raise RecipeError(
                f"facility_location.neighbours must be 1 or more, got {self.neighbours}"
            )
        if not 0 < self.epsilon < 1:
            raise RecipeError(
                f"facility_location.epsilon must be between 0 and 1, got {self.epsilon}"
            )
        if self.partitions < 1:
            raise RecipeError(
                f"facility_location.partitions must be 1 or more, got {self.partitions}"
            )

    @property
    def prefix(self) -> bool:
        """Plain and lazy greedy extend a smaller answer; the other two depend on k."""
        return self.greedy == "lazy" and self.partitions == 1

    def needs(self) -> frozenset[str]:
        """The embedding."""
        return frozenset({self.embedding})

    def select(self, pool: Pool, k: int, *, rng: np.random.Generator) -> Selection:
        """Picks by falling gain; the curve `objective` is f after each pick."""
        k = checks.budget(k, pool.n)
        x = checks.matrix(pool, self.embedding)
        everyone = np.arange(pool.n, dtype=np.int64)
        index, gain = np.empty(0, dtype=np.int64), np.empty(0)
        nearest, value = np.full(pool.n, -1, dtype=np.int64), np.full(pool.n, np.nan)
        if k:
            if self.partitions > 1:
                index, gain = self._merged(x, k, rng)
            else:
                index, gain = self._run(x, everyone, k, rng)
            nearest, value = _represented(x, index)
        facts = {"objective": float(gain.sum())}
        rows = {"reason": checks.reasons(pool.n, "represented", index)}
        rows |= {"nearest_kept": nearest, "similarity": value}
        return Selection(index, gain, facts, {"objective": np.cumsum(gain)}, rows)

    def _run(
        self,
        x: F32,
        candidates: Rows,
        k: int,
        rng: np.random.Generator,
        cover: Cover | None = None,
    ) -> tuple[Rows, F64]:
        cover = self._cover(x) if cover is None else cover

        def add(row: int) -> None:
            cover.add(np.array([row]))

        if self.greedy == "stochastic":
            return greedy.stochastic(candidates, cover.gains, add, k, epsilon=self.epsilon, rng=rng)
        start = np.concatenate(
            [cover.gains(part.tolist()) for part in _parts(candidates, cover.batch)]
        )
        return greedy.lazy(candidates, start, cover.gains, add, k, batch=cover.batch)

    def _merged(self, x: F32, k: int, rng: np.random.Generator) -> tuple[Rows, F64]:
        """The best k of the picks of all random parts, or those of one part where these are
        better."""
        parts = np.array_split(rng.permutation(len(x)), min(self.partitions, len(x)))
        found = []
        for part in parts:
            rows = np.sort(part)
            index, _ = self._run(x[rows], np.arange(len(rows)), min(k, len(rows)), rng)
            found.append(rows[index])
        cover = self._cover(x)
        index, gain = self._run(x, np.sort(np.concatenate(found)), k, rng, cover)
        most = (1 + 1e-6) * gain.sum()
        for rows in found:
            cover.best[:] = 0
            cover.add(rows)
            reached = float(cover.best.sum(dtype=np.float64))
            if len(rows) == len(index) and reached > most:
                index, most = rows, reached
                gain = self._gains(cover, rows)
        return index, gain

    def _gains(self, cover: Cover, rows: Rows) -> F64:
        """What each row adds to those before it."""
        cover.best[:] = 0
        gains: list[float] = []
        for row in rows:
            gains += cover.gains([int(row)])
            cover.add(np.array([row]))
        return np.asarray(gains)

    def _cover(self, x: F32) -> Cover:
        return Dense(x) if self.neighbours is None else Sparse(x, self.neighbours)


class Cover(Protocol):
    """The best similarity of every row so far, and what more picks would add."""

    batch: int
    best: Array

    def gains(self, rows: list[int]) -> Sequence[float]:
        """What each row would add to the objective."""
        ...

    def add(self, rows: Rows) -> None:
        """Take rows into the set."""
        ...


class Dense:
    """All pairs, in float64 so that neither blocks nor threads change a pick."""

    def __init__(self, x: F32) -> None:
        self.unit = unit64(x)
        self.stored = self._matrix() if len(x) ** 2 <= _STORED else None
        # The best of stored similarities is one of them: nothing is lost in float32.
        self.best: F64 | F32 = np.zeros(len(x), "f8" if self.stored is None else "f4")
        # A stored row is read at once; a computed one is cheaper in company.
        self.batch = 16 if self.stored is not None else 64

    def _matrix(self) -> F32:
        n = len(self.unit)
        matrix = np.empty((n, n), dtype=np.float32)
        step = min(512, rows_per_block(n, CELLS // 2))
        for start in range(0, n, step):
            # Each pair once; what lies below the diagonal is its mirror image.
            here = slice(start, start + step)
            np.maximum(
                self.unit[here] @ self.unit[start:].T,
                0,
                casting="same_kind",
                out=matrix[here, start:],
            )
            matrix[start + step :, here] = matrix[here, start + step :].T
        return matrix

    def _similar(self, rows: list[int] | Rows) -> F64 | F32:
        if self.stored is not None:
            return self.stored[rows]
        return np.maximum(self.unit[rows] @ self.unit.T, 0)

    def gains(self, rows: list[int]) -> Sequence[float]:
        """Sum over all rows of what their best similarity would gain."""
        gains: list[float] = []
        step = rows_per_block(len(self.unit))
        for start in range(0, len(rows), step):
            more = self._similar(rows[start : start + step]) - self.best
            np.maximum(more, 0, out=more)
            gains.extend(more.sum(axis=1, dtype=np.float64).tolist())
        return gains

    def add(self, rows: Rows) -> None:
        """Raise the best similarity of the rows that these represent."""
        step = rows_per_block(len(self.unit))
        for start in range(0, len(rows), step):
            best = self._similar(rows[start : start + step]).max(axis=0)
            np.maximum(self.best, best, out=self.best)


class Sparse:
    """Each row sees its `m` most similar rows only."""

    def __init__(self, x: F32, m: int) -> None:
        from scipy.sparse import csr_matrix

        index, value = most_similar(x, m)
        n = len(x)
        seen = csr_matrix((value.ravel(), (index.ravel(), np.repeat(np.arange(n), index.shape[1]))))
        seen.resize((n, n))
        self.indptr, self.rows, self.values = seen.indptr, seen.indices, seen.data
        self.best = np.zeros(n)
        self.batch = 1

    def gains(self, rows: list[int]) -> Sequence[float]:
        """Sum over the rows that see it of what their best similarity would gain."""
        found = []
        for row in rows:
            here = slice(self.indptr[row], self.indptr[row + 1])
            more = self.values[here] - self.best[self.rows[here]]
            found.append(float(more[more > 0].sum()))
        return found

    def add(self, rows: Rows) -> None:
        """Raise the best similarity of the rows that see these."""
        for row in rows:
            here = slice(self.indptr[row], self.indptr[row + 1])
            seen = self.rows[here]
            self.best[seen] = np.maximum(self.best[seen], self.values[here])


def _represented(x: F32, index: Rows) -> tuple[Rows, F64]:
    """The most similar pick of each row, and the cosine."""
    kept = unit64(x[index]).T
    nearest, value = np.empty(len(x), dtype=np.int64), np.empty(len(x))
    step = rows_per_block(len(index))
    for start in range(0, len(x), step):
        cosine = unit64(x[start : start + step]) @ kept
        best = cosine.argmax(axis=1)
        nearest[start : start + step] = index[best]
        value[start : start + step] = cosine[np.arange(len(cosine)), best]
    nearest[index] = index
    return nearest, value


def _parts(rows: Rows, size: int) -> list[Rows]:
    size = max(size, 256)
    return [rows[start : start + size] for start in range(0, len(rows), size)]
