"""How far a forecast has come."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from tamis.pipelines import opened
from tamis.pipelines.columns import Columns
from tamis.pipelines.context import Context
from tamis.pipelines.forecast.figures import Work
from tamis.pipelines.forecast.training import Trials


@dataclass(slots=True)
class State:
    """The surroundings over the shadow store, and what is known by now.

    `keys` are those of the run, as far as they are known; `lacking` the signals some rows have no
    value of, `unknown` those whose key hangs on a model not tuned yet; `exact` whether the rows
    that go on are those of the run.
    """

    ctx: Context
    keys: dict[str, str] = field(default_factory=dict)
    work: list[Work] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    lacking: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)
    exact: bool = True
    trials: Trials = field(default_factory=Trials)

    def columns(self) -> Columns:
        """The columns whose keys are those of the run."""
        columns = opened.columns(self.ctx, self.keys)
        known = {n: k for n, k in columns.signals.items() if n not in self.unknown}
        return replace(columns, signals=known)

    def to_come(self, columns: Iterable[str]) -> set[str]:
        """The signals among columns that some rows have no value of yet."""
        return {c.partition(".")[0] for c in columns if "." in c} & (self.lacking | self.unknown)
