"""Clusters of gradients, the most telling score of each, even cover of its range (Adapt-inf)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from tamis.errors import DataError, RecipeError
from tamis.numerics import strata
from tamis.numerics.allocate import allocate
from tamis.numerics.blocked import unit_rows
from tamis.numerics.kmeans import Engine, cluster
from tamis.numerics.sampling import first_of_groups
from tamis.selectors import checks
from tamis.selectors.base import About, Array, Pool, Selection
from tamis.selectors.semdedup import earlier_maximum

F64 = NDArray[np.float64]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class AdaptInf:
    """In each pseudo-skill cluster, draw evenly over the range of the score that spreads most.

    Clusters come from k-means on unit `vectors` (or the column `labels`); rows with an all-zero
    vector belong to none and are never picked. In each cluster the score whose histogram has the
    largest entropy decides, constant scores left out, ties to the first named; without any, rows
    are drawn uniformly. Budgets: `equal` shares with exact sum, `spread` in proportion to the
    deviation of the first score, or `official`. `ifd`, a column with IFD as a ratio of
    perplexities, adds its inverse to the scores: how much the instruction helps the answer, in
    place of how much the image does. Rows between the `trim` quantiles are drawn from
    `bins` of equal width. `expert` and `draw` `official` reproduce the authors' rules, which hang
    on the unit of a score and miss the budget. The gain is the value of the deciding score.

    `step="prune"` is the permanent pruning instead: the rows that stay for later rounds.

    O(n K d) a k-means iteration, O(n log n) for the rest.

    Source: Maharana et al., "Adapt-infinity", 2024 (arXiv 2410.10636). Differs from the authors'
    code: unit vectors always, a seed, exact budgets, the corrections above.
    """

    vectors: str = "gradient.vector"
    scores: tuple[str, ...] = ("nll.mean", "el2n.mean", "entropy.mean")
    ifd: str | None = None
    clusters: int = 10
    labels: str | None = None
    budget: Literal["equal", "spread", "official"] = "equal"
    expert: Literal["fixed", "official"] = "fixed"
    draw: Literal["exact", "official"] = "exact"
    bins: int = 50
    trim: float = 0.05
    step: Literal["sample", "prune"] = "sample"
    engine: Engine = "numpy"

    name: ClassVar[str] = "adapt_inf"
    prefix: ClassVar[bool] = False
    version: ClassVar[int] = 2
    about: ClassVar[About] = About(
        sentence="Covers, in each skill cluster, the range of the score that spreads it most.",
        needs="a vector of each row (projected gradients) and several scores",
        cost="seconds once the gradients exist",
        avoid="when rows with extreme scores are wanted: both tails are left out",
    )

    def __post_init__(self) -> None:
        if not self.scores:
            raise RecipeError("adapt_inf.scores must name at least one column")
        if self.clusters < 1 or self.bins < 1 or not 0 <= self.trim < 0.5:
            raise RecipeError("adapt_inf needs clusters >= 1, bins >= 1 and trim in [0, 0.5)")

    def needs(self) -> frozenset[str]:
        """The scores and the vectors or the labels; for pruning no scores, but the vectors."""
        if self.step == "prune":
            return frozenset(name for name in (self.vectors, self.labels) if name)
        scores = {*self.scores, *([self.ifd] if self.ifd else ())}
        return frozenset({*scores, self.labels or self.vectors})

    def select(self, pool: Pool, k: int, *, rng: np.random.Generator) -> Selection:
        """Picks cluster by cluster in the order drawn."""
        if self.step == "prune":
            return self.prune(pool, k, rng=rng)
        k = checks.budget(k, pool.n)
        values, names = self._values(pool)
        label = self._labels(pool, rng)
        members = _members(label)
        shares = self._shares(members, values[0], k)
        seeds = rng.integers(2**63, size=len(members))
        index, gain = [np.empty(0, dtype=np.int64)], [np.empty(0)]
        facts: dict[str, float | int | str] = {"clusters": len(members)}
        for at, (rows, share) in enumerate(zip(members, shares.tolist(), strict=True)):
            # A stream of its own: one cluster's draw does not depend on the others.
            stream = np.random.default_rng(seeds[at])
            expert = self.choose([value[rows] for value in values])
            facts[f"expert.{at}"] = "none" if expert is None else names[expert]
            score = np.zeros(len(rows)) if expert is None else values[expert][rows]
            picks = self._draw(score, share, stream)
            index.append(rows[picks])
            gain.append(score[picks])
        # The official draw may overshoot; no method exceeds its budget.
        chosen = np.concatenate(index)[:k]
        reason = checks.reasons(pool.n, "not_drawn", chosen)
        reason[label < 0] = "no_vector"
        return Selection(
            chosen,
            np.concatenate(gain)[:k],
            facts,
            rows={"reason": reason, "cluster": label},
        )

    def _values(self, pool: Pool) -> tuple[list[F64], list[str]]:
        """The scores that compete, and what they are called."""
        values, names = [checks.numbers(pool, name) for name in self.scores], [*self.scores]
        if self.ifd is not None:
            ratio = checks.numbers(pool, self.ifd)
            if (ratio <= 0).any():
                raise DataError(
                    f"column {self.ifd} is not above 0 in {int((ratio <= 0).sum())} of {pool.n} "
                    "rows: adapt_inf.ifd must be a ratio of perplexities"
                )
            values.append(1 / ratio)
            names.append(f"1/{self.ifd}")
        return values, names

    def choose(self, values: list[F64]) -> int | None:
        """The number of the score with the largest entropy, None when all are constant.

        With the official rule a constant score wins, as NaN does in the authors' argmax.
        """
        official = self.expert == "official"
        found = [strata.entropy(value, official=official) for value in values]
        if official:
            return int(np.argmax(found))
        usable = [at for at, bits in enumerate(found) if not math.isnan(bits)]
        # Rounded, so that a score and a rescaled copy of it tie.
        return max(usable, key=lambda at: (round(found[at], 9), -at), default=None)

    def prune(self, pool: Pool, cap: int, *, rng: np.random.Generator) -> Selection:
        """The rows that stay in the pool for good: the least redundant of each cluster.

        Redundancy of a row is its largest cosine, at least 0, with a row before it in its
        cluster (dropped ones included), so of two copies the later goes and the first row of a
        cluster always stays. Ties go to the lowest row. Picks in pool order; the gain is 1 minus
        the redundancy.
        """
        cap = checks.budget(cap, pool.n)
        label = self._labels(pool, rng)
        members = _members(label)
        x = unit_rows(checks.matrix(pool, self.vectors))
        value, nearest = earlier_maximum(x, label, np.arange(pool.n, dtype=np.int64))
        value = np.maximum(value, 0)
        shares = self._shares(members, np.zeros(pool.n), cap, spread=False)
        rows = np.flatnonzero(label >= 0)
        kept = np.sort(rows[first_of_groups(label[rows], shares, -value[rows])])[:cap]
        reason = checks.reasons(pool.n, "redundant", kept)
        stays = np.isin(nearest, kept)
        return Selection(
            kept,
            1 - value[kept],
            {"clusters": len(members)},
            rows={
                "reason": reason,
                "cluster": label,
                "nearest_kept": np.where(stays, nearest, -1),
                "similarity": np.where(stays, value, np.nan),
            },
        )

    def _labels(self, pool: Pool, rng: np.random.Generator) -> Array:
        if self.labels is not None:
            names = checks.texts(pool, self.labels)
            return np.unique(names, return_inverse=True)[1].astype(np.int64)
        x = unit_rows(checks.matrix(pool, self.vectors))
        label = np.full(pool.n, -1, dtype=np.int64)
        some = x.any(axis=1)
        if some.any():
            found = cluster(x[some], self.clusters, rng=rng, restarts=3, engine=self.engine)
            label[some] = found.labels
        return label

    def _shares(self, members: list[Rows], score: F64, k: int, *, spread: bool = True) -> Rows:
        sizes = np.array([len(rows) for rows in members], dtype=np.int64)
        if len(sizes) == 0:
            return sizes
        if self.budget == "official":
            try:
                given = strata.official_budget(sizes, min(k, int(sizes.sum())))
            except ZeroDivisionError as error:
                raise DataError(
                    f"the official budget rule divides by zero for {k} rows of clusters of "
                    f"{int(sizes.min())} to {int(sizes.max())} rows: set adapt_inf.budget to equal"
                ) from error
            return np.minimum(given, sizes)
        if self.budget == "spread" and spread:
            return allocate(sizes, k, [float(score[rows].std()) for rows in members])
        return allocate(sizes, k, np.ones(len(sizes)))

    def _draw(self, score: F64, share: int, rng: np.random.Generator) -> Rows:
        if self.draw == "official" and share:
            return strata.official_draw(score, share, rng, self.bins)
        return strata.draw(score, share, rng, bins=self.bins, trim=self.trim)


def _members(label: Array) -> list[Rows]:
    return [np.flatnonzero(label == at) for at in range(int(label.max(initial=-1)) + 1)]
