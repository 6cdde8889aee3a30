"""What every selection method takes and gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from tamis.numerics.ragged import Ragged

Array = NDArray[Any]


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
    `cluster`, `repeat` (how often the row is shown in an epoch if it is picked). `groups` one value
    a group, where the budget was split over groups: `name`, `asked` and `spent` in the unit of the
    budget; `cluster` is then the place of a row's group.
    """

    index: NDArray[np.int64]
    gain: NDArray[np.float64]
    facts: Mapping[str, float | int | str] = field(default_factory=dict)
    curves: Mapping[str, Array] = field(default_factory=dict)
    rows: Mapping[str, Array] = field(default_factory=dict)
    groups: Mapping[str, Array] = field(default_factory=dict)


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
