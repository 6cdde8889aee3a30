"""Several columns as one: a weighted sum or product."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from tamis.errors import RecipeError
from tamis.scoring.base import Advance, PoolColumns, Rows
from tamis.scoring.transforms.columns import NO_VALUE, numbers

NEGATIVE = "negative"
INFINITE = "infinite"


@dataclass(frozen=True)
class Combine:
    """`value` = sum of w x, or product of x^w, over `columns` (name to weight w).

    Columns of different units belong through `rank` or `robust_z` first, else the one with the
    widest numbers decides. A product needs values >= 0 and takes the column with weight -1 as a
    divisor. A row without one of the values has none. O(n) a column.
    """

    columns: Mapping[str, float]
    how: Literal["sum", "product"] = "sum"

    name: ClassVar[str] = "combine"
    version: ClassVar[int] = 1
    about: ClassVar[Mapping[str, str]] = {
        "sentence": "Several scores as one, by a weighted sum or product.",
        "needs": "columns of numbers; of like units for a sum",
        "view": "none: it reads columns",
        "cost": "under a second per 100k rows",
        "avoid": "for scores of turns, whose products are summed: deita does that itself",
    }
    fields = ("value", "reason")

    def needs(self) -> frozenset[str]:
        """The columns."""
        return frozenset(self.columns)

    def identity(self) -> Mapping[str, Any]:
        """The options."""
        return {"columns": dict(sorted(self.columns.items())), "how": self.how}

    def check(self) -> None:
        """Raise if there is no column, or a weight that is no number."""
        if not self.columns:
            raise RecipeError("combine.columns must name at least one column and its weight")
        if not np.isfinite(list(self.columns.values())).all():
            raise RecipeError("combine.columns: a weight must be a finite number")

    def score_pool(self, rows: Rows, *, advance: Advance) -> PoolColumns:
        """`value` float64, NaN with the reason `no_value: COLUMN` (or `negative: COLUMN`, in
        products) of the first column at fault; `infinite` where the result is no number."""
        product = self.how == "product"
        value = np.full(rows.n, float(product))
        reason = np.full(rows.n, None, dtype=object)
        whole = np.ones(rows.n, dtype=bool)
        # By name, so that the order of the recipe does not change the last digit.
        for name, weight in sorted(self.columns.items()):
            given = numbers(rows, name, self.name)
            faults = {NO_VALUE: np.isnan(given), NEGATIVE: (given < 0) & product}
            for fault, at in faults.items():
                reason[at & whole] = f"{fault}: {name}"
                whole &= ~at
            with np.errstate(all="ignore"):
                value = value * given**weight if product else value + weight * given
        reason[whole & ~np.isfinite(value)] = INFINITE
        value[~(whole & np.isfinite(value))] = np.nan
        advance(rows.n)
        return PoolColumns({"value": value, "reason": reason})
