"""Complex but answerable rows of every topic (CodeACT's CDAS)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tamis.errors import RecipeError
from tamis.numerics.allocate import allocate
from tamis.numerics.blocked import unit_rows
from tamis.numerics.kmeans import Engine, cluster
from tamis.numerics.sampling import first_of_groups
from tamis.selectors import checks
from tamis.selectors.base import About, Array, Pool, Selection


@dataclass(frozen=True)
class Cdas:
    """Cluster by topic; in each cluster take the rows with the highest IFD below 1.

    IFD of 1 or more means that the instruction does not help the answer at all: such rows are
    never taken. The budget is split over clusters in proportion to their eligible rows (exact
    sum); `ratio` instead takes the floor of that share of each cluster's eligible rows, as the
    authors do, up to the budget. `labels` names a column with clusters of your own. Order:
    clusters by number, IFD falling inside, ties to the lowest row; the gain is the IFD.

    O(n K d) an iteration of k-means. Source: Lv et al., "CodeACT", 2024 (arXiv 2408.02193).
    Differs from the code: a budget, and clusters that do not depend on the sklearn version.
    """

    ifd: str = "ifd.ppl_ratio"
    embedding: str = "embed.vector"
    clusters: int = 10
    ratio: float | None = None
    labels: str | None = None
    engine: Engine = "numpy"

    name: ClassVar[str] = "cdas"
    prefix: ClassVar[bool] = False
    version: ClassVar[int] = 2
    about: ClassVar[About] = About(
        sentence="Takes from every topic the rows whose answers are hardest given the instruction.",
        needs="IFD as a ratio of perplexities, and an embedding of the instruction",
        cost="seconds on two cores",
        avoid="when wrong answers are common: they look hard as well",
    )

    def __post_init__(self) -> None:
        if self.clusters < 1:
            raise RecipeError(f"cdas.clusters must be 1 or more, got {self.clusters}")
        if self.ratio is not None and not 0 < self.ratio <= 1:
            raise RecipeError(f"cdas.ratio must be in (0, 1], got {self.ratio}")

    def needs(self) -> frozenset[str]:
        """The IFD, and the embedding or the labels."""
        return frozenset({self.ifd, self.labels or self.embedding})

    def select(self, pool: Pool, k: int, *, rng: np.random.Generator) -> Selection:
        """Picks cluster by cluster."""
        k = checks.budget(k, pool.n)
        ifd = checks.numbers(pool, self.ifd)
        label = self._labels(pool, rng)
        eligible = ifd < 1
        count = int(label.max(initial=-1)) + 1
        sizes = np.bincount(label[eligible], minlength=count).astype(np.int64)
        if self.ratio is None:
            shares = allocate(sizes, k)
        else:
            asked = np.floor(sizes * self.ratio).astype(np.int64)
            shares = allocate(asked, k)
        rows = np.flatnonzero(eligible)
        index = rows[first_of_groups(label[rows], shares, ifd[rows])]
        reason = checks.reasons(pool.n, "below_cut", index)
        reason[~eligible] = "ifd_not_below_1"
        facts = {"eligible": len(rows), "clusters": count}
        return Selection(index, ifd[index], facts, rows={"reason": reason, "cluster": label})

    def _labels(self, pool: Pool, rng: np.random.Generator) -> Array:
        if self.labels is not None:
            names = checks.texts(pool, self.labels)
            return np.unique(names, return_inverse=True)[1].astype(np.int64)
        x = unit_rows(checks.matrix(pool, self.embedding))
        if pool.n == 0:
            return np.empty(0, dtype=np.int64)
        return cluster(x, self.clusters, rng=rng, engine=self.engine).labels
