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


@dataclass(frozen=True, slots=True)
class Pool:
    """What a selector looks at: `n` rows and named columns; row i is sample i in every column."""

    n: int
    columns: Mapping[str, Array | Ragged]
    target: Pool | None = None
    labels: Pool | None = None


@dataclass(frozen=True, slots=True)
class Selection:
    """Ordered row indices and why they were chosen.

    `index` int64, at most k, in the order chosen; `gain` float64, one a pick; `facts` single values
    to report;
    `curves` one value a pick or a step; `rows` one value a row of the pool (cluster, nearest kept
    row, reason).
    """

    index: NDArray[np.int64]
    gain: NDArray[np.float64]
    facts: Mapping[str, float | int | str] = field(default_factory=dict)
    curves: Mapping[str, Array] = field(default_factory=dict)
    rows: Mapping[str, Array] = field(default_factory=dict)


@runtime_checkable
class Selector(Protocol):
    """A selection method: a frozen dataclass whose fields are its options.

    `prefix` says that the first k' picks are the answer for the smaller budget k'.
    """

    name: ClassVar[str]
    prefix: ClassVar[bool]

    def needs(self) -> frozenset[str]:
        """The columns of the pool it reads."""
        ...

    def select(self, pool: Pool, k: int, *, rng: np.random.Generator) -> Selection:
        """Pick at most `k` rows. Ties go to the lowest row."""
        ...
