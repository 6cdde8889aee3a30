"""Which rows a filter of the recipe keeps."""

from __future__ import annotations

import numpy as np

from tamis.errors import DataError
from tamis.numerics.cells import LEAST, code
from tamis.numerics.ragged import Ragged
from tamis.numerics.ranks import shares
from tamis.pipelines.columns import Columns
from tamis.recipe import Filter


def passes(rule: Filter, columns: Columns, standing: np.ndarray) -> np.ndarray:
    """Whether each row of the pool passes, bool (n,); rows without a value are undefined.

    `standing` marks the rows that have a value and that nothing dropped before: the rows that
    per cents are taken of. Raises `DataError` for texts where numbers are needed.
    """
    values = columns.values(rule.column)
    if rule.is_in is not None:
        return np.isin(np.asarray(values, dtype=object), np.asarray(rule.is_in, dtype=object))
    if isinstance(values, Ragged) or values.ndim != 1:
        raise DataError(f"filter on {rule.column}: it holds several values a row, not one number")
    if values.dtype == object:
        raise DataError(
            f"filter on {rule.column}: it holds texts, and only is_in is for texts; the other "
            "rules need numbers"
        )
    passed = np.ones(len(values), dtype=bool)
    if rule.min is not None:
        passed &= values >= rule.min
    if rule.max is not None:
        passed &= values <= rule.max
    if rule.percent is not None:
        rows = np.flatnonzero(standing)
        given = values[rows].astype(np.float64)
        within = [
            code(columns.values(name), name, f"filter on {rule.column}")[rows]
            for name in rule.within
        ]
        ranked = shares(given if rule.lowest_percent is not None else -given, within, LEAST)
        passed[rows] &= np.round(ranked * 100, 9) <= rule.percent
    return passed
