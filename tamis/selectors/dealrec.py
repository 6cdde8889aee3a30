"""Influence plus effort, then even cover of the range of scores (DEALRec)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from tamis.errors import RecipeError
from tamis.selectors import checks
from tamis.selectors.base import About, Pool, Selection

F64 = NDArray[np.float64]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class DealRec:
    """Score = influence + weight x effort, both scaled to [0, 1]; draws from ranges of the score.

    The top `hard_prune` of rows by score are left out as too hard. The range of the rest is cut
    into `groups` parts of equal width; from the smallest group on, each gives min(its size,
    budget left / groups left) rows, drawn uniformly; what small groups cannot give moves to the
    larger ones. Picks come by falling score, ties to the lowest row; the gain is the score.
    `clip` brings influence and effort to their 0.1 and 99.9 percentiles first, so that a few
    outliers do not stretch the ranges. `refill` takes left-out rows, least extreme first, when the
    rest is smaller than the budget.

    O(n log n). Source: Lin et al., "Data-efficient Fine-tuning for LLM-based Recommendation", 2024
    (arXiv 2401.17197). Differs from the authors' code: the best row of the rest is never lost to
    rounding of the last edge, and draws use a generator of their own.
    """

    influence: str = "influence.value"
    effort: str = "gradient.norm"
    weight: float = 0.5
    groups: int = 50
    hard_prune: float = 0.1
    refill: bool = False
    clip: bool = False

    name: ClassVar[str] = "dealrec"
    prefix: ClassVar[bool] = False
    version: ClassVar[int] = 1
    about: ClassVar[About] = About(
        sentence="Adds how much a row helps and how hard it is, and covers all ranges of the sum.",
        needs="an influence and an effort column (gradients of a small and of the tuned model)",
        cost="well under a second once the columns exist",
        avoid="when a few outliers stretch the range: most rows then fall into one group",
    )

    def __post_init__(self) -> None:
        if self.weight < 0 or self.groups < 1 or not 0 <= self.hard_prune < 1:
            raise RecipeError(
                "dealrec needs weight >= 0, groups >= 1 and hard_prune in [0, 1), got "
                f"{self.weight}, {self.groups}, {self.hard_prune}"
            )

    def needs(self) -> frozenset[str]:
        """Influence and effort."""
        return frozenset({self.influence, self.effort})

    def select(self, pool: Pool, k: int, *, rng: np.random.Generator) -> Selection:
        """Picks by falling score; `cluster` is the group, -1 for rows left out."""
        k = checks.budget(k, pool.n)
        score = self._part(checks.numbers(pool, self.influence))
        score += self.weight * self._part(checks.numbers(pool, self.effort))
        order = np.argsort(-score, kind="stable").astype(np.int64)
        pruned = int(self.hard_prune * pool.n)
        rest = order[pruned:]
        label = np.full(pool.n, -1, dtype=np.int64)
        label[rest] = self.ranges(score[rest])
        counts = shares(np.bincount(label[rest], minlength=self.groups), min(k, len(rest)))
        picks = [np.empty(0, dtype=np.int64)]
        seeds = rng.integers(2**63, size=self.groups)
        for group in np.flatnonzero(counts):
            members = np.flatnonzero(label == group)
            # A stream of its own: one group's draw does not depend on the others.
            stream = np.random.default_rng(seeds[group])
            picks.append(stream.choice(members, counts[group], replace=False))
        if self.refill:
            picks.append(order[:pruned][::-1][: k - int(counts.sum())])
        index = np.concatenate(picks)
        index = index[np.lexsort((index, -score[index]))]
        reason = checks.reasons(pool.n, "not_drawn", index)
        reason[(label < 0) & (reason != "selected")] = "too_hard"
        sizes = np.bincount(label[rest], minlength=self.groups)
        facts: dict[str, float | int | str] = {
            "pruned": pruned,
            "groups": int((sizes > 0).sum()),
            "largest_group_share": float(sizes.max(initial=0) / max(1, len(rest))),
        }
        return Selection(
            index, score[index], facts=facts, rows={"reason": reason, "cluster": label}
        )

    def _part(self, value: F64) -> F64:
        if self.clip and len(value):
            value = np.clip(value, *np.percentile(value, [0.1, 99.9]))
        return _scaled(value)

    def ranges(self, score: F64) -> Rows:
        """The group of each score: equal widths from the smallest to the largest, upper edges
        included."""
        if len(score) == 0 or score.max() == score.min():
            return np.zeros(len(score), dtype=np.int64)
        low, high = score.min(), score.max()
        width = (high - low) / self.groups
        edges = np.minimum(low + width * np.arange(1, self.groups + 1), high)
        return np.minimum(np.searchsorted(edges, score, side="left"), self.groups - 1)


def shares(sizes: Rows, k: int) -> Rows:
    """Rows to draw from each group: smallest first, each an equal part of what is left, rounded
    down."""
    given = np.zeros_like(sizes)
    order = np.argsort(sizes, kind="stable")
    order = order[sizes[order] > 0]
    for place, group in enumerate(order):
        given[group] = min(sizes[group], k // (len(order) - place))
        k -= int(given[group])
    return given


def _scaled(value: F64) -> F64:
    if len(value) == 0 or value.max() == value.min():
        return np.zeros_like(value)
    low = value.min()
    scaled: F64 = (value - low) / (value.max() - low)
    return scaled
