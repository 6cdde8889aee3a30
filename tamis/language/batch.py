"""Which sequences go through the model together."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def batches(lengths: np.ndarray, budget: int) -> Iterator[np.ndarray]:
    """Cut sequences into batches of like length; yields the row numbers of each batch.

    `lengths` is (n,) in tokens. Rows come longest first, equal lengths in their order, so that the
    batch that needs most memory is the first. Padded to its longest row, a batch holds at most
    `budget` tokens, or else is one row. Every row comes exactly once. O(n log n).
    """
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    start = 0
    while start < len(order):
        longest = max(int(lengths[order[start]]), 1)
        stop = start + max(1, budget // longest)
        yield order[start:stop]
        start = stop
