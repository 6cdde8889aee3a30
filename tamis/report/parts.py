"""The parts of a report, as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Interval:
    """A measured value with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def shows_difference(self) -> bool:
        """For a difference: whether the interval leaves zero out."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, slots=True)
class Composition:
    """One source before and after selection, in rows and in tokens (None where not counted)."""

    source: str
    rows_before: int
    rows_after: int
    tokens_before: int | None = None
    tokens_after: int | None = None


@dataclass(frozen=True, slots=True)
class Rejected:
    """Rows that ingest refused for one reason; `examples` are (file:line, raw text)."""

    reason: str
    count: int
    examples: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, slots=True)
class Histogram:
    """A signal over the pool: `kept` and `dropped` count rows between neighbouring `edges`.

    Values beyond the first and last edge are counted in the end bins. `missing` rows have no value.
    `kept_median` and `dropped_median` are None where a side has no value. `constant` is the value
    that all rows share, where they do: then nothing is drawn.
    """

    signal: str
    edges: Sequence[float]
    kept: Sequence[int]
    dropped: Sequence[int]
    kept_median: float | None
    dropped_median: float | None
    missing: int = 0
    constant: float | None = None


@dataclass(frozen=True, slots=True)
class Compared:
    """One line of the comparison: a subset, what it cost, and its held-out figures by name."""

    name: str
    rows: int | None
    tokens: int | None
    metrics: Mapping[str, Interval]


@dataclass(frozen=True, slots=True)
class Sample:
    """A row of the pool with its fate. `turns` are (role, text), `reason` is in words, `values` are
    the signals to show, `near` tells of the kept row that stands for it."""

    id: str
    source: str
    turns: Sequence[tuple[str, str]]
    reason: str
    values: Mapping[str, float] = field(default_factory=dict)
    near: str = ""


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of the run: how many units it reused and computed, and its seconds."""

    name: str
    reused: int
    computed: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Refined:
    """A row whose answer was replaced: the text before and after, by what, and why in words."""

    id: str
    action: str
    before: str
    after: str
    why: str


@dataclass(frozen=True, slots=True)
class Theme:
    """Some texts that the tuned model likes more than its base, `score` nats a token on average.

    `rows` are the nearest rows of the data: (id, text, cosine). `supported` is None where there
    were no rows to compare with.
    """

    size: int
    score: float
    examples: Sequence[str]
    rows: Sequence[tuple[str, str, float]] = ()
    supported: bool | None = None


@dataclass(frozen=True, slots=True)
class News:
    """What is new in the data: `made` says how, `covered` is the share of the data's clusters."""

    made: str
    texts: int
    themes: Sequence[Theme]
    covered: float | None = None
    warnings: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Box:
    """One thing to check before a decision: a figure of the chosen rows, a word on it, whether it
    is a warning, and whether it was checked at all."""

    title: str
    figure: str
    note: str
    warn: bool = False
    checked: bool = True


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart. `side` is kept, dropped or empty, and decides the colour. With `spread`,
    one number a point, each point is a dot between two ends that far away."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    side: str = ""
    spread: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class Curve:
    """A chart of lines over one axis."""

    title: str
    x_label: str
    lines: Sequence[Line]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Member:
    """A row of a group of duplicates."""

    id: str
    source: str
    kept: bool
    representative: bool
    similarity: float
    text: str


@dataclass(frozen=True, slots=True)
class Duplicates:
    """The groups that one signal found: how many, of how many rows; groups of which several rows
    were kept; some of the largest."""

    signal: str
    groups: int
    rows: int
    kept_twice: int
    shown: Sequence[Sequence[Member]]


@dataclass(frozen=True, slots=True)
class Covered:
    """Rows of a cluster or with a label, before and after."""

    name: str
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class Coverage:
    """How much of the clusters or labels the chosen rows hold: all of them counted, the largest
    shown; `lost` are those without a chosen row."""

    title: str
    groups: int
    lost: int
    shown: Sequence[Covered]


@dataclass(frozen=True, slots=True)
class Training:
    """One model that was tuned: facts in words, and what online selection did, if any did."""

    name: str
    facts: Mapping[str, str]
    online: Mapping[str, str] = field(default_factory=dict)
    visits: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EmbeddingMap:
    """Rows as points. Arrays have one entry a row: `x`, `y` and the `signals` float, `source`,
    `cluster` and `reason` numbers of the names, `kept` bool. `how` says what the places mean,
    `drawn` of how many rows these are."""

    x: NDArray[np.float32]
    y: NDArray[np.float32]
    kept: NDArray[np.bool_]
    source: NDArray[np.int64]
    sources: Sequence[str]
    cluster: NDArray[np.int64]
    clusters: Sequence[str]
    reason: NDArray[np.int64]
    reasons: Sequence[str]
    signals: Mapping[str, NDArray[np.float64]]
    ids: Sequence[str]
    texts: Sequence[str]
    how: str
    drawn: str
