"""Which values lie above a threshold, such as their median."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Ties = Literal["drop", "keep"]


class Kept(NamedTuple):
    """`keep` (n,), the `threshold`, and how many rows lie exactly on it."""

    keep: NDArray[np.bool_]
    threshold: float
    ties: int


def above(values: NDArray[np.float64], threshold: Literal["median"] | float, ties: Ties) -> Kept:
    """Keep rows above the threshold (n,); those on it only with ties `keep`, NaN never.

    The median is over the rows that have a value, the mean of the middle two if their number is
    even: at most half the rows lie above it, and far fewer where many are equal. O(n). Source:
    Chen and Mueller, 2024 (arXiv 2403.12776).
    """
    known = values[~np.isnan(values)]
    if threshold == "median":
        limit = float(np.median(known)) if len(known) else float("nan")
    else:
        limit = float(threshold)
    kept = values >= limit if ties == "keep" else values > limit
    return Kept(kept, limit, int((values == limit).sum()))
