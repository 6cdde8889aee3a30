"""Which values lie above a threshold, such as their median."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tamis.numerics.cells import limits

Ties = Literal["drop", "keep"]


class Kept(NamedTuple):
    """`keep` (n,), the `threshold` of each row (n,), and how many rows lie exactly on theirs."""

    keep: NDArray[np.bool_]
    threshold: NDArray[np.float64]
    ties: int


def above(
    values: NDArray[np.float64],
    threshold: Literal["median"] | float,
    ties: Ties,
    *,
    quantile: float | None = None,
    within: Sequence[NDArray[np.int64]] = (),
) -> Kept:
    """Keep rows above the threshold (n,); those on it only with ties `keep`, NaN never.

    The median, or the `quantile`, is over the rows that have a value, of those alike in `within`
    (codes (n,), see `cells.limits`) by themselves. The median is the mean of the middle two if
    their number is even: at most half the rows lie above it, and far fewer where many are equal.
    O(n log n). Source: Chen and Mueller, 2024 (arXiv 2403.12776).
    """
    if quantile is not None:
        limit = limits(values, lambda cell: float(np.quantile(cell, quantile)), within)
    elif threshold == "median":
        limit = limits(values, lambda cell: float(np.median(cell)), within)
    else:
        limit = np.full(len(values), float(threshold))
    kept = values >= limit if ties == "keep" else values > limit
    return Kept(kept, limit, int((values == limit).sum()))
