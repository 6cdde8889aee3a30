"""What scorers share that compare a value with those of like rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from tamis.errors import RecipeError
from tamis.numerics.cells import LEAST


@dataclass(frozen=True)
class WithinCells:
    """A column, the columns to compare within, and the fewest rows to compare with."""

    column: str
    within: tuple[str, ...] = ()
    least: int = LEAST

    name: ClassVar[str]

    def needs(self) -> frozenset[str]:
        """The column and those to compare within."""
        return frozenset({self.column, *self.within})

    def identity(self) -> Mapping[str, Any]:
        """The options."""
        return {"column": self.column, "within": list(self.within), "least": self.least}

    def check(self) -> None:
        """Raise if `least` is below 1."""
        if self.least < 1:
            raise RecipeError(f"{self.name}.least must be 1 or more, got {self.least}")
