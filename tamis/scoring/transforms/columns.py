"""The columns a transform reads: numbers to change, codes to compare within."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tamis.errors import DataError
from tamis.numerics.cells import code
from tamis.numerics.ragged import Ragged
from tamis.scoring.base import Rows

NO_VALUE = "no_value"


def numbers(rows: Rows, name: str, user: str) -> np.ndarray:
    """A column (n,) of float64, NaN where a row has no value. Raises `DataError` for texts, lists
    and vectors."""
    column = rows.columns[name]
    if isinstance(column, Ragged) or column.ndim != 1:
        raise DataError(f"{user}: {name} holds several values a row; one number is needed")
    if column.dtype == object and any(v is not None for v in column):
        raise DataError(f"{user}: {name} holds texts or dates; numbers are needed")
    return column.astype(np.float64)


def finite(values: np.ndarray, name: str, user: str) -> np.ndarray:
    """The same values. Raises `DataError` where one is infinite: no sum survives that."""
    wrong = np.flatnonzero(np.isinf(values))
    if len(wrong):
        raise DataError(f"{user}: {name} is infinite in {len(wrong):,} rows; filter them out first")
    return values


def reasons(undefined: np.ndarray, text: str = NO_VALUE) -> np.ndarray:
    """`text` for the rows that are undefined, else None."""
    reason = np.full(len(undefined), None, dtype=object)
    reason[undefined] = text
    return reason


def codes(rows: Rows, names: Sequence[str], user: str) -> list[np.ndarray]:
    """Columns (n,) of codes from 0 to compare within: texts by their name, numbers of more than
    ten values in tenths. No value is a group of its own."""
    return [code(rows.columns[name], name, user) for name in names]
