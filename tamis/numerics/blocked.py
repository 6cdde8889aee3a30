"""Similarities in blocks: float32 for speed, float64 where a decision hangs on rounding."""

from __future__ import annotations

import math
import threading

import numpy as np
from numpy.typing import NDArray

from tamis.numerics.threads import spread

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Rows = NDArray[np.int64]

# Cells of one block of similarities: 4 M float32 = 16 MB.
CELLS = 4_194_304


def rows_per_block(columns: int, cells: int = CELLS) -> int:
    """How many rows of `columns` numbers make one block."""
    return max(1, cells // max(1, columns))


def slack(width: int) -> float:
    """How far a float32 product of two unit rows may lie from the exact one.

    Two evaluations of the same pair differ by up to about 5e-7 at width 384; the bound is kept
    wide, as a recheck is cheap and a wrong decision is not.
    """
    return 1e-5 * max(1.0, math.sqrt(width / 1024))


def unit_rows(x: F32) -> F32:
    """Rows divided by their length, which is taken in float64; zero rows stay zero. A new array."""
    unit = np.empty_like(x)
    step = rows_per_block(x.shape[1])
    for start in range(0, len(x), step):
        part = x[start : start + step]
        unit[start : start + step] = unit64(part)
    return unit


def unit64(x: F32) -> F64:
    """The same in float64: what decides when float32 cannot."""
    wide = x.astype(np.float64)
    # The square of any float32 fits into float64, so only zero rows are special.
    norm = np.sqrt(np.einsum("ij,ij->i", wide, wide))
    wide /= np.where(norm > 0, norm, 1.0)[:, None]
    return wide


def nearest(x: F32, centres: F32, *, block: int | None = None) -> tuple[Rows, F64]:
    """For each row of `x` the nearest row of `centres`, lowest on ties, and the squared distance.

    `x` (n, d), `centres` (m, d), any scale. Near ties are decided in float64, so the answer does
    not depend on the block size or the number of threads. Time O(n m d), memory one block.
    """
    index = nearest_index(x, centres, squares(x), block=block)
    return index, square_distances(x, centres, index)


def nearest_index(x: F32, centres: F32, square: F64, *, block: int | None = None) -> Rows:
    """The first of these two; `square` (n,) is `squares(x)`, which many calls may share."""
    n, width = x.shape
    step = block or rows_per_block(len(centres), CELLS // 8)
    half = 0.5 * squares(centres)
    half32 = half.astype(np.float32)
    longest = float(np.sqrt(2 * half.max()))
    index = np.empty(n, dtype=np.int64)
    across = centres.T.astype(np.float32)
    margin = 4 * slack(width)
    # One block of memory a thread: fresh pages cost as much as a pass over them.
    rooms = threading.local()

    def one(start: int) -> None:
        part = x[start : start + step]
        if not hasattr(rooms, "block"):
            rooms.block = np.empty((min(n, step), len(centres)), dtype=np.float32)
        scores = np.matmul(part, across, out=rooms.block[: len(part)])
        scores -= half32
        best = scores.argmax(axis=1)
        here = np.arange(len(part))
        top = scores[here, best]
        # The error grows with the numbers that cancel: |x| |c| and |c|^2.
        length = np.sqrt(square[start : start + step])
        least = top - (margin * longest * (length + longest)).astype(np.float32)
        scores[here, best] = -np.inf
        for row in np.flatnonzero(scores.max(axis=1) >= least):
            scores[row, best[row]] = top[row]
            few = np.flatnonzero(scores[row] >= least[row])
            exact = centres[few].astype(np.float64) @ part[row].astype(np.float64) - half[few]
            best[row] = few[exact.argmax()]
        index[start : start + step] = best

    spread(one, range(0, n, step))
    return index


def square_distances(x: F32, centres: F32, index: Rows) -> F64:
    """Squared distance of each row to its centre, row `index[i]` of `centres`."""
    distance = np.empty(len(x))
    step = rows_per_block(x.shape[1], CELLS // 4)

    def one(start: int) -> None:
        gap = centres[index[start : start + step]].astype(np.float64)
        gap -= x[start : start + step]
        distance[start : start + step] = np.einsum("ij,ij->i", gap, gap)

    spread(one, range(0, len(x), step))
    return distance


def squares(x: F32) -> F64:
    """Squared length of each row, in float64."""
    square = np.empty(len(x))
    step = rows_per_block(x.shape[1], CELLS // 4)
    for start in range(0, len(x), step):
        wide = x[start : start + step].astype(np.float64)
        square[start : start + step] = np.einsum("ij,ij->i", wide, wide)
    return square
