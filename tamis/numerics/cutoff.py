"""Rows that lie further from the mean than so many standard deviations."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]


class Outside(NamedTuple):
    """`rows` (n,) tells which rows lie beyond the `threshold`."""

    rows: NDArray[np.bool_]
    threshold: float


def above(values: F64, multiple: float) -> Outside:
    """Values strictly above mean + multiple x deviation (population); NaN counts nowhere."""
    known = values[np.isfinite(values)]
    if not len(known):
        return Outside(np.zeros(len(values), dtype=bool), float("nan"))
    threshold = float(known.mean() + multiple * known.std())
    return Outside(np.isfinite(values) & (values > threshold), threshold)


def below(values: F64, multiple: float, *, sample: bool = False) -> Outside:
    """Values strictly below mean - multiple x deviation, of the population or (`sample`) of n - 1;
    NaN counts nowhere."""
    known = values[np.isfinite(values)]
    if len(known) <= sample:
        return Outside(np.zeros(len(values), dtype=bool), float("nan"))
    threshold = float(known.mean() - multiple * known.std(ddof=int(sample)))
    return Outside(np.isfinite(values) & (values < threshold), threshold)
