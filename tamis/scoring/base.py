"""What a scorer is. Scorers know batches or arrays, never files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np
import pyarrow as pa

from tamis.recipe import Model

if TYPE_CHECKING:
    from tamis.scoring.answers import AnswerLogProbs

# One entry a field: a numpy array whose NaN (float) or None (object) means undefined; (n, d)
# float32 for vectors. A field has the same type in every batch.
Columns = Mapping[str, np.ndarray]
# Told how many more rows are finished.
Advance = Callable[[int], None]
Rendering = Literal["conditional", "answer"]


class Scorer(Protocol):
    """A signal that each row has by itself: a frozen dataclass whose fields are its options.

    `version` is raised by hand when the values change. `fields` names the columns in the order they
    are stored. `about` says what `tamis methods` shows: sentence, needs, cost, avoid.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    about: ClassVar[Mapping[str, str]]

    @property
    def fields(self) -> tuple[str, ...]:
        """The columns it gives."""
        ...

    def identity(self) -> Mapping[str, Any]:
        """Everything that determines the values: options, model identity, view. JSON-like; never a
        path."""
        ...

    def check(self) -> None:
        """Raise a `TamisError` if a package, folder or model is missing; loads nothing."""
        ...


class RowScorer(Scorer, Protocol):
    """A scorer that works on the rows by its own means."""

    @property
    def warnings(self) -> list[str]:
        """What the user must know of the values so far."""
        ...

    def score(self, batch: pa.RecordBatch, *, advance: Advance) -> Columns:
        """Score the rows of a batch (columns of `samples`), in their order."""
        ...


class PassScorer(Scorer, Protocol):
    """A scorer that is computed from forward passes, which it shares with others."""

    renderings: ClassVar[frozenset[Rendering]]
    model: Model
    device: str

    def reduce(self, answers: AnswerLogProbs) -> Columns:
        """Turn the log-probabilities of the answers into columns."""
        ...
