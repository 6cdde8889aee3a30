"""Rows that lie further from the mean than so many standard deviations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tamis.numerics.cells import limits

F64 = NDArray[np.float64]
Within = Sequence[NDArray[np.int64]]


class Outside(NamedTuple):
    """`rows` (n,) tells which rows lie beyond the `threshold` (n,) of theirs."""

    rows: NDArray[np.bool_]
    threshold: F64


def above(values: F64, multiple: float, within: Within = ()) -> Outside:
    """Values strictly above mean + multiple x deviation (population); NaN counts nowhere. Of the
    rows alike in `within` by themselves: codes (n,), see `cells.limits`."""
    known = np.where(np.isfinite(values), values, np.nan)
    limit = limits(known, lambda cell: float(cell.mean() + multiple * cell.std()), within)
    return Outside(known > limit, limit)


def below(values: F64, multiple: float, within: Within = (), *, sample: bool = False) -> Outside:
    """Values strictly below mean - multiple x deviation, of the population or (`sample`) of n - 1;
    NaN counts nowhere, nor does a single value of a sample. `within` as in `above`."""
    known = np.where(np.isfinite(values), values, np.nan)

    def limit(cell: F64) -> float:
        if len(cell) <= sample:
            return float("nan")
        return float(cell.mean() - multiple * cell.std(ddof=int(sample)))

    found = limits(known, limit, within)
    return Outside(known < found, found)
