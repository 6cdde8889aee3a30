"""A graph of labels: which are so similar that information about one tells about the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tamis.errors import DataError
from tamis.numerics.blocked import rows_per_block, unit64

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Rows = NDArray[np.int64]

# float32 finds the pairs, float64 decides: so every machine finds the same edges.
_SLACK = 1e-4


@dataclass(frozen=True, slots=True)
class LabelGraph:
    """Similarities of labels as CSR arrays, the diagonal (1) included, and the threshold used."""

    indptr: Rows
    indices: Rows
    values: F64
    threshold: float

    @property
    def degrees(self) -> Rows:
        """Neighbours of each label, itself not counted."""
        return np.diff(self.indptr) - 1

    def matrix(self) -> Any:
        """The graph as a scipy matrix (L, L)."""
        from scipy.sparse import csr_matrix

        size = len(self.indptr) - 1
        return csr_matrix((self.values, self.indices, self.indptr), shape=(size, size))


def build(embedding: F32, threshold: float) -> LabelGraph:
    """Connect labels whose cosine is at least `threshold` (0 or more).

    `embedding` (L, d), any scale. O(L^2 d) time in blocks, memory one block and the edges.
    Raises `DataError` for a negative threshold, which would make information fall.
    """
    if threshold < 0:
        raise DataError(f"the threshold of a label graph must be 0 or more, got {threshold}")
    wide = unit64(embedding)
    unit = wide.astype(np.float32)
    firsts, seconds, values = [], [], []
    step = rows_per_block(len(unit))
    for start in range(0, len(unit), step):
        # Each pair once: the rows from this block on.
        cosine = unit[start : start + step] @ unit[start:].T
        # Flat first: finding the true cells of a matrix is several times slower.
        cells = np.flatnonzero(cosine.ravel() >= threshold - _SLACK)
        first, second = np.divmod(cells, cosine.shape[1])
        first, second = first[first < second] + start, second[first < second] + start
        value = _pairs(wide, first, second)
        near = value >= threshold
        firsts += [first[near], second[near]]
        seconds += [second[near], first[near]]
        values += [value[near], value[near]]
    return _csr(len(unit), firsts, seconds, values, threshold)


def unconnected(size: int) -> LabelGraph:
    """Every label for itself."""
    every = np.arange(size + 1, dtype=np.int64)
    return LabelGraph(every, every[:-1], np.ones(size), 1.0)


def threshold_for(embedding: F32, neighbours: float) -> float:
    """The threshold at which labels have `neighbours` neighbours on average, at least 0."""
    unit = unit64(embedding).astype(np.float32)
    wanted = round(neighbours * len(unit) / 2)
    if wanted < 1 or len(unit) < 2:
        return 1.0
    best = np.empty(0, dtype=np.float32)
    step = rows_per_block(len(unit))
    for start in range(0, len(unit), step):
        cosine = unit[start : start + step] @ unit.T
        later = np.arange(len(unit)) > np.arange(start, start + len(cosine))[:, None]
        best = np.concatenate([best, cosine[later]])
        if len(best) > wanted:
            best = np.partition(best, len(best) - wanted)[len(best) - wanted :]
    # Rounded down, so that the last of these pairs passes whatever the rounding of its cosine.
    return float(max(0.0, np.floor(float(best.min()) * 1e5) / 1e5))


def _pairs(wide: F64, first: Rows, second: Rows) -> F64:
    cosine = np.empty(len(first))
    step = rows_per_block(wide.shape[1])
    for start in range(0, len(first), step):
        here = slice(start, start + step)
        cosine[here] = (wide[first[here]] * wide[second[here]]).sum(axis=1)
    return cosine


def _csr(
    size: int, firsts: list[Rows], seconds: list[Rows], values: list[F64], threshold: float
) -> LabelGraph:
    every = np.arange(size, dtype=np.int64)
    first = np.concatenate([*firsts, every])
    second = np.concatenate([*seconds, every])
    value = np.concatenate([*values, np.ones(size)])
    order = np.lexsort((second, first))
    indptr = np.searchsorted(first[order], np.arange(size + 1)).astype(np.int64)
    return LabelGraph(indptr, second[order].astype(np.int64), value[order], threshold)
