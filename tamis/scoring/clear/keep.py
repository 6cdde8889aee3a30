"""The rule that keeps the rows above the median of a column."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from tamis.errors import RecipeError
from tamis.numerics.above import Ties, above
from tamis.numerics.cells import told
from tamis.scoring.base import Advance, PoolColumns, Rows
from tamis.scoring.transforms.columns import codes, numbers, reasons

# More equal rows than this share at the threshold make the rule drop far more than asked.
_MANY_TIES = 0.05


@dataclass(frozen=True)
class ClearFilter:
    """`keep` tells whether `column` lies above `threshold`: `median`, a number, or `quantile` of
    the rows that have a value, or of those alike in the columns `within` by themselves. Rows on the
    threshold stay only with ties `keep`; rows without a value never do.

    Source: the Auto-filter of Chen and Mueller, 2024 (arXiv 2403.12776). O(n).
    """

    column: str = "clear.confidence"
    threshold: Literal["median"] | float = "median"
    quantile: float | None = None
    ties: Ties = "drop"
    within: tuple[str, ...] = ()

    name: ClassVar[str] = "clear_filter"
    version: ClassVar[int] = 1
    about: ClassVar[Mapping[str, str]] = {
        "sentence": "Which rows lie above the median of a score, such as the confidence of clear.",
        "needs": "a column of numbers, clear.confidence unless another is named",
        "view": "none: it reads columns",
        "cost": "under a second per 100k rows",
        "avoid": "with coarse scores: all rows that lie on the median go",
    }
    fields = ("keep", "margin", "reason")

    def needs(self) -> frozenset[str]:
        """The column and those to compare within."""
        return frozenset({self.column, *self.within})

    def identity(self) -> Mapping[str, Any]:
        """The options."""
        own = ("column", "threshold", "quantile", "ties")
        return {**{name: getattr(self, name) for name in own}, "within": list(self.within)}

    def check(self) -> None:
        """Raise if the options do not fit together."""
        if self.quantile is not None and (self.threshold != "median" or not 0 < self.quantile < 1):
            raise RecipeError("clear_filter: quantile lies between 0 and 1, without a threshold")
        if self.within and self.threshold != "median":
            raise RecipeError("clear_filter: within is for the median and quantiles, not a number")

    def score_pool(self, rows: Rows, *, advance: Advance) -> PoolColumns:
        """`keep` bool, `margin` = value - threshold float64, NaN with a reason without a value."""
        values = numbers(rows, self.column, self.name)
        kept = above(
            values,
            self.threshold,
            self.ties,
            quantile=self.quantile,
            within=codes(rows, self.within, self.name),
        )
        advance(rows.n)
        known = ~np.isnan(values)
        facts: dict[str, Any] = {
            "threshold": told(kept.threshold),
            "kept": int(kept.keep.sum()),
            "ties": kept.ties,
        }
        if kept.ties > _MANY_TIES * known.sum():
            facts["warning"] = f"{kept.ties} rows lie on the threshold, and ties are {self.ties}"
        reason = reasons(~known)
        return PoolColumns(
            {"keep": kept.keep, "margin": values - kept.threshold, "reason": reason}, facts=facts
        )
