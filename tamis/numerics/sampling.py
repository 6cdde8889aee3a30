"""Weighted sampling without replacement, many groups in one pass."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def draw(
    groups: NDArray[np.int64],
    counts: NDArray[np.int64],
    log_weights: NDArray[np.float64],
    noise: NDArray[np.float64],
) -> NDArray[np.int64]:
    """Draw `counts[g]` rows of each group g without replacement, heavier rows more likely.

    `groups` (n,) in 0..len(counts)-1, `log_weights` (n,) up to a constant a group, `noise` (n,)
    standard Gumbel (`rng.gumbel(size=n)`). Returns rows group after group, each in draw order.
    The distribution is that of drawing one row after another in proportion to the weights of the
    rows left (Efraimidis and Spirakis 2006). Rows of weight 0 come last, lowest row first.
    O(n log n).
    """
    return first_of_groups(groups, counts, log_weights + noise)


def first_of_groups(
    groups: NDArray[np.int64], counts: NDArray[np.int64], keys: NDArray[np.float64]
) -> NDArray[np.int64]:
    """The `counts[g]` rows with the largest keys of each group, ties to the lower row."""
    order = np.lexsort((-keys, groups))
    starts = np.searchsorted(groups[order], np.arange(len(counts)))
    place = np.arange(len(order)) - starts[groups[order]]
    taken: NDArray[np.int64] = order[place < counts[groups[order]]].astype(np.int64)
    return taken
