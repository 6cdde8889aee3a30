"""What every selection method takes and gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Ragged:
    """Several values a row: row i owns `values[indptr[i]:indptr[i + 1]]` (labels, scores of
    turns)."""

    indptr: NDArray[np.int64]
    values: Array

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


@dataclass(frozen=True, slots=True)
class Pool:
    """What a selector looks at: `n` rows and named columns; row i is sample i in every column."""

    n: int
    columns: Mapping[str, Array | Ragged]
    target: Pool | None = None
    labels: Pool | None = None

    def take(self, rows: NDArray[np.int64]) -> Pool:
        """The pool of the given rows; target and labels stay as they are."""
        columns = {name: column[rows] for name, column in self.columns.items()}
        return Pool(len(rows), columns, self.target, self.labels)


@dataclass(frozen=True, slots=True)
class Selection:
    """Ordered row indices and why they were chosen.

    `index` int64, at most k, in the order chosen; `gain` float64, one a pick; `facts` single values
    to report; `curves` one value a pick or a step; `rows` one value a row of the pool: `reason` (a
    short word), and where the method has them `nearest_kept` (row, -1 for none), `similarity`,
    `cluster`.
    """

    index: NDArray[np.int64]
    gain: NDArray[np.float64]
    facts: Mapping[str, float | int | str] = field(default_factory=dict)
    curves: Mapping[str, Array] = field(default_factory=dict)
    rows: Mapping[str, Array] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class About:
    """A method in plain words: what it does, what it needs, what it costs, when not to use it."""

    sentence: str
    needs: str
    cost: str
    avoid: str


@runtime_checkable
class Selector(Protocol):
    """A selection method: a frozen dataclass whose fields are its options.

    `prefix` says that the first k' picks are the answer for the smaller budget k' (a property where
    that hangs on the options).
    `version` is raised by hand when the same options give other rows.
    """

    name: ClassVar[str]
    prefix: ClassVar[bool]
    version: ClassVar[int]
    about: ClassVar[About]

    def needs(self) -> frozenset[str]:
        """The columns of the pool it reads."""
        ...

    def select(self, pool: Pool, k: int, *, rng: np.random.Generator) -> Selection:
        """Pick at most `k` rows. Ties go to the lowest row."""
        ...
