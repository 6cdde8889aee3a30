"""The place of a value among the others: a column spread evenly over 0 to 1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tamis.numerics.ranks import shares
from tamis.scoring.base import Advance, PoolColumns, Rows
from tamis.scoring.transforms.columns import codes, numbers, reasons
from tamis.scoring.transforms.within import WithinCells


@dataclass(frozen=True)
class Rank(WithinCells):
    """`value` = rank / m of `column` among the m rows that have a value: the share of rows at or
    below it, equal values at the mean of their ranks. So `max: 0.2` keeps the lowest fifth.

    `within` names columns whose combinations are ranked each by itself; numbers of more than ten
    values are cut in tenths. A combination of fewer than `least` rows is ranked within all rows
    that share the leading columns, the last-named dropped first. O(n log n) a column.

    Source: quantile mapping; stratified ranks against confounding. Keeping the lowest perplexities
    is the rule of POINTS (arXiv 2409.04828).
    """

    name: ClassVar[str] = "rank"
    version: ClassVar[int] = 1
    about: ClassVar[Mapping[str, str]] = {
        "sentence": "The place of a score among all rows, or among those of its source, 0 to 1.",
        "needs": "a column of numbers",
        "cost": "under a second per 100k rows",
        "avoid": "when the distances between scores matter, not only their order",
    }
    fields = ("value", "reason")

    def score_pool(self, rows: Rows, *, advance: Advance) -> PoolColumns:
        """`value` in (0, 1], NaN with a reason where the column has no value. Infinities rank."""
        given = numbers(rows, self.column, self.name)
        some = np.flatnonzero(~np.isnan(given))
        within = [code[some] for code in codes(rows, self.within, self.name)]
        value = np.full(rows.n, np.nan)
        value[some], coarser = shares(given[some], within, self.least)
        advance(rows.n)
        facts = {"rows_in_coarser_cells": coarser} if self.within else {}
        return PoolColumns({"value": value, "reason": reasons(np.isnan(given))}, facts=facts)
