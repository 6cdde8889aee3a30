"""Scorers that are computed together: those that need the same model share its forward passes."""

from __future__ import annotations

from collections.abc import Mapping
from math import log
from typing import Protocol, TypeGuard, cast

import numpy as np
import orjson
import pyarrow as pa

from tamis import samples
from tamis.language import load
from tamis.language.forward import Engine
from tamis.language.network import STATES, Part
from tamis.language.tally import Tally
from tamis.scoring import answers
from tamis.scoring.base import Advance, Columns, PassScorer, RowScorer, Scorer


class Group(Protocol):
    """Some scorers by column name. `warnings` is what the user must know of the values so far."""

    names: tuple[str, ...]

    @property
    def warnings(self) -> list[str]:
        """Sentences for people; empty when all is well."""
        ...

    def score(self, batch: pa.RecordBatch, *, advance: Advance) -> dict[str, Columns]:
        """The columns of each name for the rows of a batch (columns of `samples`), in order."""
        ...

    def reads(self, batch: pa.RecordBatch) -> Tally | None:
        """What models would read for these rows; None where only scoring them tells."""
        ...


class RowGroup:
    """One scorer that works by its own means."""

    def __init__(self, name: str, scorer: RowScorer) -> None:
        """`name` is the column."""
        self.names: tuple[str, ...] = (name,)
        self._scorer = scorer

    @property
    def warnings(self) -> list[str]:
        """Those of the scorer."""
        return self._scorer.warnings

    def score(self, batch: pa.RecordBatch, *, advance: Advance) -> dict[str, Columns]:
        """See `Group`."""
        return {self.names[0]: self._scorer.score(batch, advance=advance)}

    def reads(self, batch: pa.RecordBatch) -> Tally | None:
        """See `Group`. Of a scorer without a model: nothing."""
        known = getattr(self._scorer, "reads", None)
        if known is not None:
            found: Tally = known(batch)
            return found
        return None if hasattr(self._scorer, "device") else Tally()


class PassGroup:
    """Scorers of one model: one engine, one forward pass per rendering and row for all of them."""

    def __init__(self, scorers: Mapping[str, PassScorer]) -> None:
        """The scorers by column name; all have the same model and device."""
        self.names = tuple(scorers)
        self._scorers = dict(scorers)
        first = next(iter(scorers.values()))
        self.engine = Engine(first.model, first.device)
        self._nll = 0.0
        self._tokens = 0

    @property
    def warnings(self) -> list[str]:
        """That the model knows less of the answers than a uniform guess."""
        if not self._tokens or self._nll / self._tokens <= log(self.engine.vocabulary):
            return []
        return [
            f"{', '.join(self.names)}: the mean answer NLL is {self._nll / self._tokens:.2f} nats "
            f"a token over {self._tokens} tokens, above ln V = {log(self.engine.vocabulary):.2f}: "
            f"{self.engine.model.location} knows less of these answers than a uniform guess, so "
            "THESE SIGNALS ARE NOISE; tune the model on such rows first, or check prompt_style"
        ]

    def score(self, batch: pa.RecordBatch, *, advance: Advance) -> dict[str, Columns]:
        """See `Group`."""
        prepared = self._prepared(batch)
        found = answers.score(
            self.engine, prepared, self._parts, alone=self._alone, advance=advance
        )
        self._nll += float(np.sum(-found.parts["logprob"]))
        self._tokens += len(found.row)
        return {name: scorer.reduce(found) for name, scorer in self._scorers.items()}

    def reads(self, batch: pa.RecordBatch) -> Tally:
        """See `Group`. Renders the rows, and runs nothing."""
        return answers.reads(self._prepared(batch), whole=bool(self._parts & STATES))

    @property
    def _alone(self) -> bool:
        return any("answer" in s.renderings for s in self._scorers.values())

    @property
    def _parts(self) -> frozenset[Part]:
        return frozenset().union(*(s.parts for s in self._scorers.values()))

    def _prepared(self, batch: pa.RecordBatch) -> answers.Prepared:
        return answers.prepare(
            self.engine,
            samples.decode_messages(batch.column("messages")),
            samples.decode_tools(batch.column("tools")),
            alone=self._alone,
        )


def group(scorers: Mapping[str, Scorer]) -> list[Group]:
    """Put scorers by column name into groups, in the order of their first members.

    Scorers that need passes are together when model (by content), rendering and device are the
    same.
    """
    together: dict[bytes, dict[str, PassScorer]] = {}
    groups: dict[bytes, Group | None] = {}
    for name, scorer in scorers.items():
        if _needs_passes(scorer):
            key = orjson.dumps([load.identity(scorer.model), scorer.device])
            together.setdefault(key, {})[name] = scorer
            groups.setdefault(key, None)
        else:
            groups[name.encode()] = RowGroup(name, cast(RowScorer, scorer))
    return [found or PassGroup(together[key]) for key, found in groups.items()]


def _needs_passes(scorer: Scorer) -> TypeGuard[PassScorer]:
    return hasattr(scorer, "renderings")
