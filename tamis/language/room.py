"""Batches that shrink when the memory of a GPU runs out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tamis.errors import TamisError


class Room:
    """How many padded `tokens` a batch may have. Fewer once memory has run out: what did not fit is
    not tried again."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    def run(
        self,
        rows: np.ndarray,
        widths: np.ndarray,
        compute: Callable[[np.ndarray], Sequence[Any]],
    ) -> Sequence[Any]:
        """What `compute` gives for the row numbers `rows`, one result a row, in two batches where
        one does not fit.

        `widths` (n,) are the tokens of every row, so a batch holds its longest times its rows.
        When CUDA memory runs out the batch is halved, down to one row; then `TamisError`.
        """
        import torch

        padded = len(rows) * int(widths[rows].max())
        if padded <= self.tokens or len(rows) == 1:
            try:
                return compute(rows)
            except torch.cuda.OutOfMemoryError as error:
                if len(rows) == 1:
                    raise TamisError(
                        f"one row of {padded} tokens does not fit into GPU memory: lower the "
                        "model's max_length, or use dtype bfloat16"
                    ) from error
                self.tokens = max(1, padded // 2)
            # Outside the except block, which keeps the failed tensors alive.
            torch.cuda.empty_cache()
        middle = len(rows) // 2
        halves = (rows[:middle], rows[middle:])
        return [value for half in halves for value in self.run(half, widths, compute)]
