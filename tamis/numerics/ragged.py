"""Columns with several values a row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Ragged:
    """Several values a row: row i owns `values[indptr[i]:indptr[i + 1]]` (labels, scores of
    turns)."""

    indptr: NDArray[np.int64]
    values: NDArray[Any]

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def __getitem__(self, rows: NDArray[np.int64]) -> Ragged:
        """The given rows, in the given order, as a new column."""
        sizes = np.diff(self.indptr)[rows]
        indptr = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        inside = np.arange(indptr[-1]) - np.repeat(indptr[:-1], sizes)
        return Ragged(indptr, self.values[np.repeat(self.indptr[rows], sizes) + inside])

    def distinct(self, count: int) -> Ragged:
        """Each label (0..count-1) of a row once, sorted."""
        rows = np.repeat(np.arange(len(self)), np.diff(self.indptr))
        cells = np.sort(rows * max(1, count) + self.values)
        cells = cells[np.concatenate([[True], cells[1:] != cells[:-1]])[: len(cells)]]
        sizes = np.bincount(cells // max(1, count), minlength=len(self))
        indptr = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        return Ragged(indptr, (cells % max(1, count)).astype(np.int64))
