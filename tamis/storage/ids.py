"""How often each content came before: occurrence numbers over all rows, in little memory."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

_BLOCK = 1 << 18


def key_words(keys: pa.ChunkedArray) -> npt.NDArray[np.uint64]:
    """Content keys (32 hex digits each, no nulls) as uint64 of shape (n, 2)."""
    digits = "".join(keys.to_pylist())
    return np.frombuffer(bytes.fromhex(digits), dtype=">u8").astype(np.uint64).reshape(-1, 2)


def occurrences(blocks: Iterable[npt.NDArray[np.uint64]], n: int) -> npt.NDArray[np.int32]:
    """For each row, how many rows before it have the same key.

    `blocks` hold the keys of consecutive rows, each of shape (m, 2), n rows in all; give them one
    by one, since they are copied. Time O(n log n). Memory: 16 bytes a row for the keys, 8 for their
    order and 4 for sorting it; the result comes when the keys are gone.
    """
    left, right = _taken_over(blocks, n)
    order = np.argsort(left, kind="stable")
    same, mixed = _same_as_before(order, left, right)
    if mixed:  # different keys share their left half, which random keys practically never do
        order = np.lexsort((right, left))
        same, _ = _same_as_before(order, left, right)
    del left, right
    return _counted(order, same)


def _taken_over(
    blocks: Iterable[npt.NDArray[np.uint64]], n: int
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    left, right = np.empty(n, np.uint64), np.empty(n, np.uint64)
    at = 0
    for block in blocks:
        left[at : at + len(block)], right[at : at + len(block)] = block[:, 0], block[:, 1]
        at += len(block)
    return left, right


def _same_as_before(
    order: npt.NDArray[np.int64], left: npt.NDArray[np.uint64], right: npt.NDArray[np.uint64]
) -> tuple[npt.NDArray[np.bool_], bool]:
    """Whether each sorted row has the key of the sorted row before it, and whether there are
    neighbours with equal left and unequal right halves."""
    same, mixed = np.zeros(len(order), np.bool_), False
    for start in range(1, len(order), _BLOCK):
        now = order[start : start + _BLOCK]
        before = order[start - 1 : start - 1 + len(now)]
        lefts, rights = left[now] == left[before], right[now] == right[before]
        mixed = mixed or bool(np.any(lefts & ~rights))
        same[start : start + len(now)] = lefts & rights
    return same, mixed


def _counted(order: npt.NDArray[np.int64], same: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
    """Positions within runs of equal keys, brought back to row order."""
    occurrence = np.empty(len(order), np.int32)
    head = 0  # where the run began that reaches into this block
    for start in range(0, len(order), _BLOCK):
        at = np.arange(start, min(start + _BLOCK, len(order)))
        heads = np.where(same[start : start + _BLOCK], head, at)
        heads = np.maximum.accumulate(heads)
        occurrence[order[at]] = at - heads
        head = int(heads[-1])
    return occurrence
