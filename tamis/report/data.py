"""What a report shows, as plain values. Who fills this in knows the store; the page does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tamis.report.methods import Methods
from tamis.report.parts import (
    Box,
    Compared,
    Composition,
    Coverage,
    Curve,
    Duplicates,
    EmbeddingMap,
    Histogram,
    Interval,
    News,
    Refined,
    Rejected,
    Sample,
    Stage,
    Training,
)


@dataclass(frozen=True, slots=True)
class ReportData:
    """Everything on the page. Empty fields leave their section out.

    `counts` are the tiles at the top, in order; `selected`, `ingested` and `tokens selected` are
    also read by the verdict. `reasons` (in words) tell what became of all rows. `differences` are
    selected minus random, by metric: `nll` (lower is better), `exact_match` (higher); `gains` are
    selected minus untuned. `refined`
    counts rows by what a refiner did with them; `changed` are some whose answer it replaced.
    `sampled` says of what the distributions are drawn, where not of all rows. `absent` says of each
    section that is not there what would make it.
    """

    recipe: str
    run_id: str
    started: str
    method: str
    counts: Mapping[str, int]
    reasons: Mapping[str, int] = field(default_factory=dict)
    composition: Sequence[Composition] = ()
    languages: Sequence[Composition] = ()
    boxes: Sequence[Box] = ()
    rejected: Sequence[Rejected] = ()
    histograms: Sequence[Histogram] = ()
    sampled: str = ""
    compared: Sequence[Compared] = ()
    differences: Mapping[str, Interval] = field(default_factory=dict)
    gains: Mapping[str, Interval] = field(default_factory=dict)
    methods: Methods | None = None
    map: EmbeddingMap | None = None
    duplicates: Sequence[Duplicates] = ()
    coverage: Sequence[Coverage] = ()
    curves: Sequence[Curve] = ()
    training: Sequence[Training] = ()
    steps: Sequence[Curve] = ()
    kept: Sequence[Sample] = ()
    dropped: Sequence[Sample] = ()
    refined: Mapping[str, int] = field(default_factory=dict)
    changed: Sequence[Refined] = ()
    news: News | None = None
    stages: Sequence[Stage] = ()
    lineage: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    settings: str = ""
    absent: Mapping[str, str] = field(default_factory=dict)
