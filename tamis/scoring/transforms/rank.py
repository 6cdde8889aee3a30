"""The place of a value among the others: a column spread evenly over 0 to 1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tamis.errors import RecipeError
from tamis.numerics.ranks import places
from tamis.scoring.base import Advance, PoolColumns, Rows
from tamis.scoring.transforms.columns import codes, numbers, reasons
from tamis.scoring.transforms.within import WithinCells


@dataclass(frozen=True)
class Rank(WithinCells):
    """`value` = rank / m of `column` among the m rows that have a value: the share of rows at or
    below it, equal values at the mean of their ranks. So `max: 0.2` keeps the lowest fifth.

    `within` names columns whose combinations are ranked each by itself; numbers of more than ten
    values are cut in tenths. A combination of fewer than `least` rows is ranked within all rows
    that share the leading columns, the last-named dropped first. With `span` [a, b] the lowest of m
    values becomes a and the highest b, `value` = a + (b - a) (rank - 1) / (m - 1), and the middle
    where there is one row. O(n log n) a column.

    Source: quantile mapping; stratified ranks against confounding. Keeping the lowest perplexities
    is the rule of POINTS (arXiv 2409.04828).
    """

    span: tuple[float, float] | None = None

    name: ClassVar[str] = "rank"
    version: ClassVar[int] = 1
    about: ClassVar[Mapping[str, str]] = {
        "sentence": "The place of a score among all rows, or among those of its source, 0 to 1.",
        "needs": "a column of numbers",
        "view": "none: it reads columns",
        "cost": "under a second per 100k rows",
        "avoid": "when the distances between scores matter, not only their order",
    }
    fields = ("value", "reason")

    def identity(self) -> Mapping[str, Any]:
        """The options."""
        return {**super().identity(), "span": self.span and list(self.span)}

    def check(self) -> None:
        """Raise if `least` is below 1 or `span` does not rise."""
        super().check()
        if self.span is not None and not self.span[0] < self.span[1]:
            raise RecipeError(f"rank.span must be two rising numbers, got {list(self.span)}")

    def score_pool(self, rows: Rows, *, advance: Advance) -> PoolColumns:
        """`value` in (0, 1] or in `span`, NaN with a reason where the column has no value.
        Infinities rank."""
        given = numbers(rows, self.column, self.name)
        some = np.flatnonzero(~np.isnan(given))
        within = [code[some] for code in codes(rows, self.within, self.name)]
        value = np.full(rows.n, np.nan)
        place, count, coarser = places(given[some], within, self.least)
        if self.span is None:
            value[some] = place / count
        else:
            low, high = self.span
            share = np.where(count > 1, (place - 1) / np.maximum(1, count - 1), 0.5)
            value[some] = low + (high - low) * share
        advance(rows.n)
        facts = {"rows_in_coarser_cells": coarser} if self.within else {}
        return PoolColumns({"value": value, "reason": reasons(np.isnan(given))}, facts=facts)
