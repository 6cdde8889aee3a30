"""A subset given as a list of ids: from another tool, an earlier run, a person."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tamis.errors import DataError, RecipeError
from tamis.selectors import checks
from tamis.selectors.base import About, Pool, Selection


@dataclass(frozen=True)
class Ids:
    """Take the rows with the given ids, in the given order, up to the budget.

    Raises `DataError` when an id is not in the pool and `RecipeError` when one is given twice.
    O(n).
    """

    ids: tuple[str, ...]
    column: str = "id"

    name: ClassVar[str] = "ids"
    prefix: ClassVar[bool] = True
    version: ClassVar[int] = 1
    about: ClassVar[About] = About(
        sentence="Takes a given list of ids, in its order.",
        needs="the column with the ids (id)",
        cost="under a second",
        avoid="when the list comes from other data: an unknown id is an error",
    )

    def __post_init__(self) -> None:
        if len(set(self.ids)) < len(self.ids):
            twice = next(i for n, i in enumerate(self.ids) if i in self.ids[:n])
            raise RecipeError(f"ids: {twice!r} is given more than once; give each id once")

    def needs(self) -> frozenset[str]:
        """The column with the ids."""
        return frozenset({self.column})

    def select(self, pool: Pool, k: int, *, rng: np.random.Generator) -> Selection:
        """The rows of the first k ids; the gain falls from their number to 1."""
        k = checks.budget(k, pool.n)
        place = {name: row for row, name in enumerate(checks.texts(pool, self.column))}
        unknown = [name for name in self.ids if name not in place]
        if unknown:
            raise DataError(
                f"{len(unknown)} of {len(self.ids)} ids are not among the {pool.n} rows to "
                f"choose from, the first is {unknown[0]!r}; they may have been filtered out"
            )
        listed = np.array([place[name] for name in self.ids], dtype=np.int64)
        index = listed[:k]
        reason = np.full(pool.n, "not_listed", dtype=object)
        reason[listed] = "over_budget"
        reason[index] = "selected"
        gain = np.arange(len(listed), len(listed) - len(index), -1, dtype=np.float64)
        return Selection(index, gain, rows={"reason": reason})
