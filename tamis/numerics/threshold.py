"""Keep a row unless it is too similar to one kept before: the filter of deita and its kin."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tamis.numerics.blocked import CELLS, rows_per_block, slack, unit64

F32 = NDArray[np.float32]
Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Filtered:
    """Positions kept, in order; for each examined position the nearest kept one before it.

    `nearest` is -1 and `similarity` NaN where nothing was kept before. Positions from
    `len(nearest)` on were not examined: the limit had been reached.
    """

    kept: Rows
    nearest: Rows
    similarity: F32


def greedy_filter(
    x: F32, order: Rows, tau: float, limit: int, *, block: int | None = None
) -> Filtered:
    """Scan rows of `x` in `order`; keep one unless its cosine with a kept row exceeds `tau`.

    A cosine of exactly `tau` is kept. Zero rows have cosine 0 with everything. Stops at `limit`
    kept rows. All positions in the result count along `order`. Decisions within rounding of
    `tau` are made in float64, so the kept rows do not depend on the block size or the number of
    threads. Time O(examined x kept x d); memory the kept rows and one block.
    """
    width = x.shape[1]
    size = block or 256
    kept = np.empty((min(len(order), limit, 1024), width), dtype=np.float32)
    positions = np.empty(min(len(order), limit), dtype=np.int64)
    nearest = np.full(len(order), -1, dtype=np.int64)
    similarity = np.full(len(order), np.nan, dtype=np.float32)
    count = examined = 0
    for start in range(0, len(order), size):
        if count >= limit:
            break
        rows = order[start : start + size]
        part = unit64(x[rows]).astype(np.float32)
        place, value = _nearest(part, kept[:count])
        too_close = _exceeds(value, tau, part, kept[:count], x, rows, order[positions[:count]])
        gram = part @ part.T
        over = _over(gram, tau, x[rows])
        taken = _resolve(over, ~too_close, limit - count)
        stop = int(taken[-1]) + 1 if count + len(taken) >= limit else len(rows)
        examined = start + stop
        here = slice(start, examined)
        nearest[here] = np.where(place[:stop] >= 0, positions[place[:stop]], -1)
        similarity[here] = value[:stop]
        _inside(gram[:stop], taken, start, nearest[here], similarity[here])
        kept = _grown(kept, count + len(taken))
        kept[count : count + len(taken)] = part[taken]
        positions[count : count + len(taken)] = start + taken
        count += len(taken)
    return Filtered(positions[:count], nearest[:examined], similarity[:examined])


def blockwise_filter(x: F32, order: Rows, tau: float, limit: int, size: int) -> Rows:
    """The official batch rule: rows of one block reject each other even when rejected themselves.

    After the first row, blocks of `size` rows are taken; a row falls to any kept row and to any
    earlier row of its block. The limit is applied after each block. Stricter than the rule of
    one row at a time, and dependent on `size` by design.
    """
    if limit <= 0 or len(order) == 0:
        return np.empty(0, dtype=np.int64)
    unit = unit64(x[order])
    kept = [0]
    for start in range(1, len(order), size):
        if len(kept) >= limit:
            break
        part = unit[start : start + size]
        fallen = (part @ unit[kept].T > tau).any(axis=1)
        fallen |= np.tril(part @ part.T > tau, -1).any(axis=1)
        kept.extend((start + np.flatnonzero(~fallen)).tolist())
    return np.asarray(kept[:limit], dtype=np.int64)


def _nearest(part: F32, kept: F32) -> tuple[Rows, F32]:
    """The most similar kept row of each row (first on ties), -1 and NaN where none is kept."""
    place = np.full(len(part), -1, dtype=np.int64)
    value = np.full(len(part), np.nan, dtype=np.float32)
    here = np.arange(len(part))
    step = rows_per_block(len(part), CELLS // 2)
    for start in range(0, len(kept), step):
        scores = part @ kept[start : start + step].T
        best = scores.argmax(axis=1)
        top = scores[here, best]
        better = ~(top <= value)
        place[better] = start + best[better]
        value[better] = top[better]
    return place, value


def _exceeds(
    value: F32, tau: float, part: F32, kept: F32, x: F32, rows: Rows, kept_rows: Rows
) -> Mask:
    """Which rows have a cosine above tau with a kept row, in float64 where float32 is too coarse."""
    margin = slack(part.shape[1])
    above = value > tau + margin
    for i in np.flatnonzero(np.abs(value - tau) <= margin):
        close = np.flatnonzero(kept @ part[i] > tau - 2 * margin)
        exact = _cosine(unit64(x[kept_rows[close]]), unit64(x[rows[i : i + 1]]))
        above[i] = exact.max(initial=-1.0) > tau
    return above


def _over(gram: F32, tau: float, raw: F32) -> Mask:
    """Which pairs of a block exceed tau, decided in float64 near it."""
    over: Mask = gram > tau
    first, second = np.nonzero(np.triu(np.abs(gram - tau) <= slack(raw.shape[1]), 1))
    if len(first):
        wide = unit64(raw)
        step = rows_per_block(raw.shape[1])
        for start in range(0, len(first), step):
            a, b = first[start : start + step], second[start : start + step]
            over[a, b] = _cosine(wide[a], wide[b]) > tau
    return over


def _cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Row by row, always by the same summation: a matrix product rounds by its shape."""
    # A row's cosine with its own copy may come out as 1 + 2e-16; at tau = 1 nothing is too close.
    return np.clip((a * b).sum(axis=1), -1.0, 1.0)


def _resolve(over: Mask, alive: Mask, room: int) -> Rows:
    """Take the rows of a block in order, each striking out the later ones it is too close to.

    Rows are the bits of one big integer, so a pick costs well under a microsecond.
    """
    packed = np.packbits(over, axis=1, bitorder="little")
    left = int.from_bytes(np.packbits(alive, bitorder="little").tobytes(), "little")
    taken: list[int] = []
    while left and len(taken) < room:
        lowest = left & -left
        row = lowest.bit_length() - 1
        taken.append(row)
        left &= ~(lowest | int.from_bytes(packed[row].tobytes(), "little"))
    return np.asarray(taken, dtype=np.int64)


def _inside(gram: F32, taken: Rows, start: int, nearest: Rows, similarity: F32) -> None:
    """Bring the rows kept within the block into `nearest` and `similarity`, in place."""
    if not len(taken):
        return
    scores = np.where(taken < np.arange(len(gram))[:, None], gram[:, taken], -np.inf)
    best = scores.argmax(axis=1)
    top = scores[np.arange(len(gram)), best]
    better = (top > -np.inf) & ~(top <= similarity)
    nearest[better] = start + taken[best[better]]
    similarity[better] = top[better]


def _grown(kept: F32, count: int) -> F32:
    """`kept` with room for `count` rows, doubled when it must grow."""
    if count <= len(kept):
        return kept
    larger = np.empty((max(count, 2 * len(kept)), kept.shape[1]), dtype=np.float32)
    larger[: len(kept)] = kept
    return larger
