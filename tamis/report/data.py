"""What a report shows, as plain values. Who fills this in knows the store; the page does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


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
    the signals to show."""

    id: str
    source: str
    turns: Sequence[tuple[str, str]]
    reason: str
    values: Mapping[str, float] = field(default_factory=dict)


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
class ReportData:
    """Everything on the page. Empty fields leave their section out.

    `counts` are the tiles at the top, in order; `selected`, `ingested` and `tokens selected` are
    also read by the verdict. `reasons` (in words) tell what became of all rows. `differences` are
    selected minus random, by metric: `nll` (lower is better), `exact_match` (higher). `refined`
    counts rows by what a refiner did with them; `changed` are some whose answer it replaced.
    """

    recipe: str
    run_id: str
    started: str
    method: str
    counts: Mapping[str, int]
    reasons: Mapping[str, int] = field(default_factory=dict)
    composition: Sequence[Composition] = ()
    rejected: Sequence[Rejected] = ()
    histograms: Sequence[Histogram] = ()
    compared: Sequence[Compared] = ()
    differences: Mapping[str, Interval] = field(default_factory=dict)
    kept: Sequence[Sample] = ()
    dropped: Sequence[Sample] = ()
    refined: Mapping[str, int] = field(default_factory=dict)
    changed: Sequence[Refined] = ()
    news: News | None = None
    stages: Sequence[Stage] = ()
    lineage: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    settings: str = ""
