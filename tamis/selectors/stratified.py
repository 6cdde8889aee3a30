"""A random subset in which every kind of row has its share: a harder baseline than a plain draw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from tamis.errors import DataError
from tamis.selectors import checks
from tamis.selectors.base import About, Pool, Selection

Rows = NDArray[np.int64]
# A row without a value is of a kind of its own.
NONE = -1


@dataclass(frozen=True)
class Stratified:
    """Draw at random so that each stratum has its share of any prefix, to about a row.

    A stratum is a combination of values of the `by` columns and of one of `bins` equally filled
    ranges of `length`. Rows of a stratum of m rows come in a random order at the places
    (j + u) / m, j = 0 ... m - 1, with one u in [0, 1) a stratum: systematic sampling. Every row is
    equally likely to be among the first k, but for the length of a prefix. O(n log n).

    Source: Madow and Madow, "On the Theory of Systematic Sampling, I", 1944.
    """

    by: tuple[str, ...] = ("source",)
    length: str | None = None
    bins: int = 5

    name: ClassVar[str] = "stratified"
    prefix: ClassVar[bool] = True
    version: ClassVar[int] = 2
    about: ClassVar[About] = About(
        sentence="Picks at random, each kind of row in its share of the pool.",
        needs="the columns that tell kinds apart",
        cost="well under a second",
        avoid="to change the mixture: that is quota's work",
    )

    def __post_init__(self) -> None:
        if self.bins < 1:
            raise DataError(f"stratified: bins must be 1 or more, got {self.bins}")

    def needs(self) -> frozenset[str]:
        """The columns that make the strata."""
        return frozenset(self.by) | ({self.length} if self.length else frozenset())

    def may_lack(self) -> frozenset[str]:
        """Those of `by`: rows without a value are of a kind of their own, not left out."""
        return frozenset(self.by)

    def select(self, pool: Pool, k: int, *, rng: np.random.Generator) -> Selection:
        """The first k rows; every gain is 0, `cluster` is the stratum."""
        k = checks.budget(k, pool.n)
        stratum = self._strata(pool)
        sizes = np.bincount(stratum) if pool.n else np.zeros(0, dtype=np.int64)
        # Drawn first: else the order would be that of a plain draw with the same seed.
        start = rng.random(len(sizes))
        shuffled = rng.permutation(pool.n)
        order = shuffled[np.argsort(stratum[shuffled], kind="stable")]
        starts = np.cumsum(sizes) - sizes
        place = np.empty(pool.n)
        inside = np.arange(pool.n) - np.repeat(starts, sizes)
        place[order] = (inside + np.repeat(start, sizes)) / np.repeat(sizes, sizes)
        index = np.argsort(place, kind="stable")[:k].astype(np.int64)
        rows = {"reason": checks.reasons(pool.n, "not_drawn", index), "cluster": stratum}
        return Selection(index, np.zeros(len(index)), facts={"strata": len(sizes)}, rows=rows)

    def _strata(self, pool: Pool) -> Rows:
        """The number of the stratum of each row, 0 ... without gaps."""
        codes = [_kinds(checks.column(pool, name), name) for name in self.by]
        if self.length is not None:
            codes.append(_ranges(checks.numbers(pool, self.length), self.bins))
        stratum = np.zeros(pool.n, dtype=np.int64)
        for code in codes:
            # Made dense at each step, so that many columns cannot run over.
            joint = stratum * (code.max(initial=NONE) + 2) + code + 1
            stratum = np.unique(joint, return_inverse=True)[1].astype(np.int64)
        return stratum


def _kinds(values: object, name: str) -> Rows:
    if not isinstance(values, np.ndarray) or values.ndim != 1:
        raise DataError(f"column {name} must hold one value a row")
    known: dict[str, int] = {}
    return np.array(
        [
            NONE if v is None or v != v else known.setdefault(str(v), len(known))
            for v in values.tolist()
        ],
        dtype=np.int64,
    )


def _ranges(values: NDArray[np.float64], bins: int) -> Rows:
    """The range of each value: equally filled, equal values together."""
    if not len(values):
        return np.zeros(0, dtype=np.int64)
    edges = np.quantile(values, np.arange(1, bins) / bins)
    return np.searchsorted(edges, values, side="right").astype(np.int64)
