"""One driver for greedy maximisation: lazy for submodular objectives, or stochastic."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Rows = NDArray[np.int64]
F64 = NDArray[np.float64]
Gains = Callable[[list[int]], Sequence[float]]
Add = Callable[[int], None]
# The row that takes the place of a picked one, and an upper bound of its gain.
Successor = Callable[[int], "tuple[int, float] | None"]


def rounded(value: float) -> float:
    """A gain to 40 bits: what is equal but for the order of a sum becomes equal.

    Rounding is monotone, so bounds stay bounds and the lowest row wins real ties.
    """
    fraction, exponent = math.frexp(value)
    return math.ldexp(round(fraction * 1_099_511_627_776.0), exponent - 40)


def rounded_all(values: F64) -> F64:
    """`rounded` of an array."""
    fraction, exponent = np.frexp(values)
    keys: F64 = np.ldexp(np.rint(fraction * 1_099_511_627_776.0), exponent - 40)
    return keys


def lazy(
    rows: ArrayLike,
    bounds: ArrayLike,
    gains: Gains,
    add: Add,
    k: int,
    *,
    batch: int = 1,
    successor: Successor | None = None,
    above: float | None = None,
) -> tuple[Rows, F64]:
    """Pick up to `k` rows, each time one of the largest gain, lowest row on ties.

    `bounds` are upper bounds of the gains of `rows` at the start (the gains of the empty set).
    Needs gains that never rise as rows are added (Minoux 1978): then a gain computed earlier is
    a bound, and most rows are never looked at again. `gains` is called with up to `batch` rows,
    `add` with each pick. `successor` names the row that may enter once a row was picked. With
    `above`, stops before a pick whose rounded gain is not larger: rows that are not here may win.
    Returns the rows in the order picked and their gains.
    """
    start = [-rounded(float(bound)) for bound in np.asarray(bounds)]
    # (key, row, number of picks when the gain was computed, gain)
    heap = [
        (key, int(row), -1, -key) for key, row in zip(start, np.asarray(rows).tolist(), strict=True)
    ]
    heapq.heapify(heap)
    index: list[int] = []
    gain: list[float] = []
    while heap and len(index) < k:
        now = len(index)
        key, row, computed, value = heap[0]
        if computed == now:
            if above is not None and -key <= above:
                break
            heapq.heappop(heap)
            index.append(row)
            gain.append(value)
            add(row)
            follower = successor(row) if successor else None
            if follower is not None:
                heapq.heappush(heap, (-rounded(follower[1]), follower[0], -1, follower[1]))
            continue
        stale = _stale(heap, now, batch)
        for fresh, new in zip(stale, gains(stale), strict=True):
            heapq.heappush(heap, (-rounded(new), fresh, now, new))
    return np.asarray(index, dtype=np.int64), np.asarray(gain, dtype=np.float64)


def _stale(heap: list[tuple[float, int, int, float]], now: int, batch: int) -> list[int]:
    """Take up to `batch` rows with outdated gains from the top of the heap."""
    rows = [heapq.heappop(heap)[1]]
    while len(rows) < batch and heap and heap[0][2] != now:
        rows.append(heapq.heappop(heap)[1])
    return rows


def stochastic(
    rows: ArrayLike,
    gains: Gains,
    add: Add,
    k: int,
    *,
    epsilon: float,
    rng: np.random.Generator,
) -> tuple[Rows, F64]:
    """Each time the best of a random sample of (n / k) ln(1 / epsilon) rows not yet picked.

    In expectation within 1 - 1/e - epsilon of the best (Mirzasoleiman et al. 2015,
    arXiv 1409.7938). Evaluates n ln(1 / epsilon) gains in all, whatever k is.
    """
    left = np.asarray(rows, dtype=np.int64).copy()
    size = max(1, math.ceil(len(left) / max(1, k) * math.log(1 / epsilon)))
    index: list[int] = []
    gain: list[float] = []
    while len(left) and len(index) < k:
        places = rng.choice(len(left), min(size, len(left)), replace=False)
        tried = left[places].tolist()
        values = gains(tried)
        best = min(range(len(tried)), key=lambda i: (-rounded(values[i]), tried[i]))
        index.append(tried[best])
        gain.append(values[best])
        add(tried[best])
        # The order of what is left is random anyway: fill the gap with the last.
        left[places[best]] = left[-1]
        left = left[:-1]
    return np.asarray(index, dtype=np.int64), np.asarray(gain, dtype=np.float64)
