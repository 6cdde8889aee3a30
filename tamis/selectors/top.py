"""The rows with the largest (or smallest) value of one column."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tamis.selectors import checks
from tamis.selectors.base import About, Pool, Selection


@dataclass(frozen=True)
class Top:
    """Sort by `column`, take k; ties go to the lowest row. The gain is the column's value.

    O(n log n). The single-score baselines of the field (length, perplexity, IFD, quality) are this
    with their column; published cut-offs such as IFD <= 1 are filters of the recipe.
    """

    column: str
    largest: bool = True

    name: ClassVar[str] = "top"
    prefix: ClassVar[bool] = True
    version: ClassVar[int] = 1
    about: ClassVar[About] = About(
        sentence="Picks the rows with the largest or smallest value of one column.",
        needs="the column it sorts by",
        cost="well under a second",
        avoid="when similar rows share high scores: nothing keeps the subset diverse",
    )

    def needs(self) -> frozenset[str]:
        """The column it sorts by."""
        return frozenset({self.column})

    def select(self, pool: Pool, k: int, *, rng: np.random.Generator) -> Selection:
        """The first k rows of the sorted order."""
        k = checks.budget(k, pool.n)
        value = checks.numbers(pool, self.column)
        index = np.argsort(-value if self.largest else value, kind="stable")[:k].astype(np.int64)
        rows = {"reason": checks.reasons(pool.n, "below_cut", index)}
        facts = {"cut": float(value[index[-1]])} if len(index) else {}
        return Selection(index, value[index], facts=facts, rows=rows)
