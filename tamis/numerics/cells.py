"""Rows that are alike in some columns: what a value is compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from tamis.errors import DataError
from tamis.numerics.ragged import Ragged
from tamis.numerics.ranks import deciles, levels

F64 = NDArray[np.float64]
Ints = NDArray[np.int64]
# A cell of fewer rows is judged with the rows of the next coarser one.
LEAST = 20


def limits(
    values: F64, of: Callable[[F64], float], within: Sequence[Ints], least: int = LEAST
) -> F64:
    """`of` the values of each row's cell, (n,); NaN where a row has no value.

    Cells are those of `levels` over the rows that have a value: the crossing of `within`, codes
    (n,) each, coarsened until `least` rows are in one. O(n log n), one call of `of` a cell.
    """
    found = np.full(len(values), np.nan)
    some = np.flatnonzero(~np.isnan(values))
    for cells, mine in levels([c[some] for c in within], len(some), least):
        if not mine.any():
            continue
        order = np.argsort(cells, kind="stable")
        for rows in np.split(order, np.flatnonzero(np.diff(cells[order])) + 1):
            own = rows[mine[rows]]
            if len(own):
                found[some[own]] = of(values[some[rows]])
    return found


def told(limit: F64) -> float | str:
    """Limits of rows for people: the one there is, or from which to which; NaN without any."""
    known = limit[~np.isnan(limit)]
    if not len(known) or known.min() == known.max():
        return float(known[0]) if len(known) else float("nan")
    return f"{known.min():.6g} to {known.max():.6g}"


def code(column: np.ndarray | Ragged, name: str, user: str) -> np.ndarray:
    """Codes of one column: see `codes`. Raises `DataError` for lists and vectors."""
    if isinstance(column, Ragged) or column.ndim != 1:
        raise DataError(f"{user}: within {name} is not possible: it holds several values a row")
    return groups(column) if column.dtype == object else deciles(column.astype(np.float64))


def groups(column: np.ndarray) -> np.ndarray:
    """Codes (n,) from 0 of the distinct values of a column, in their order; none is the last."""
    texts = column.dtype == object
    missing = np.array([v is None for v in column], dtype=bool) if texts else np.isnan(column)
    code = np.zeros(len(column), dtype=np.int64)
    # Kinds may be mixed in no order: dates and texts compare as texts.
    known = [str(v) for v in column[~missing]] if texts else column[~missing]
    distinct, place = np.unique(np.asarray(known), return_inverse=True)
    code[~missing], code[missing] = place, len(distinct)
    return code
