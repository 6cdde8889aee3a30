"""The most similar rows of each row, exactly."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tamis.numerics.blocked import CELLS, rows_per_block, slack, unit_rows

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Rows = NDArray[np.int64]


def most_similar(x: F32, m: int) -> tuple[Rows, F64]:
    """The `m` most similar rows of each row, itself among them, and the cosines, at least 0.

    float32 finds those that may be among them, float64 decides. O(n^2 d) time, memory one block
    and the (n, m) result.
    """
    unit, length = unit_rows(x), _lengths(x)
    n, m = len(x), min(m, len(x))
    index = np.empty((n, m), dtype=np.int64)
    value = np.empty((n, m))
    margin = np.float32(2 * slack(x.shape[1]))
    step = rows_per_block(n)
    for start in range(0, n, step):
        cosine = unit[start : start + step] @ unit.T
        least = _at_least(cosine, m) - margin
        first, second = np.divmod(np.flatnonzero((cosine >= least).ravel()), n)
        # Rounded, so that copies tie and the lowest rows among them are the neighbours.
        exact = np.round(_cosines(x, length, first + start, second), 12)
        order = np.lexsort((second, -exact, first))
        place = np.searchsorted(first[order], np.arange(len(cosine)))[:, None] + np.arange(m)
        index[start : start + step] = second[order[place]]
        value[start : start + step] = exact[order[place]]
    return index, np.maximum(value, 0)


def _at_least(values: F32, m: int) -> F32:
    """A number of each row that at least `m` of its values reach: the m-th largest of the maxima
    of groups, which takes a fraction of the time of the m-th largest of all."""
    n = values.shape[1]
    size = max(1, min(16, n // (4 * m)))
    whole = n - n % size
    tops = values[:, :whole].reshape(len(values), size, -1).max(axis=1)
    least: F32 = np.partition(tops, tops.shape[1] - m, axis=1)[:, tops.shape[1] - m, None]
    return least


def _lengths(x: F32) -> F64:
    """Length of each row, 1 for a row of zeros."""
    length = np.empty(len(x))
    step = rows_per_block(x.shape[1])
    for start in range(0, len(x), step):
        wide = x[start : start + step].astype(np.float64)
        length[start : start + step] = np.sqrt((wide * wide).sum(axis=1))
    return np.where(length > 0, length, 1.0)


def _cosines(x: F32, length: F64, first: Rows, second: Rows) -> F64:
    """Cosines of pairs of rows in float64, by the same summation wherever a pair stands."""
    cosine = np.empty(len(first))
    step = rows_per_block(x.shape[1], CELLS // 4)
    for start in range(0, len(first), step):
        a, b = first[start : start + step], second[start : start + step]
        product = x[a].astype(np.float64)
        product *= x[b]
        cosine[start : start + step] = product.sum(axis=1) / (length[a] * length[b])
    return cosine
