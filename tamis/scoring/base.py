"""What a scorer is. Scorers know batches or arrays, never files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np
import pyarrow as pa

from tamis import samples
from tamis.language.network import Part
from tamis.numerics.ragged import Ragged
from tamis.recipe import Model
from tamis.scoring.views import View, text

if TYPE_CHECKING:
    from tamis.scoring.answers import AnswerParts

# One entry a field: a numpy array whose NaN (float) or None (object) means undefined; (n, d)
# float32 for vectors; objects are texts, or in every row a list of texts. A field has the same type
# in every batch.
Columns = Mapping[str, np.ndarray]
# Told how many more rows are finished.
Advance = Callable[[int], None]
Rendering = Literal["conditional", "answer"]


class Scorer(Protocol):
    """A signal that each row has by itself: a frozen dataclass whose fields are its options.

    `version` is raised by hand when the values change. `fields` names the columns in the order they
    are stored. `about` says what `tamis methods` shows: sentence, needs, view (which text it
    reads), cost, avoid.
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

    @property
    def parts(self) -> frozenset[Part]:
        """What it wants of the passes, beside the log-probabilities."""
        ...

    def reduce(self, answers: AnswerParts) -> Columns:
        """Turn what the passes gave of the answers into columns."""
        ...


@dataclass(frozen=True, slots=True)
class Rows:
    """All rows of a pool, ascending by id: what a `PoolScorer` looks at.

    `columns` are the ones it needs, NaN or None where a row has no value, (n, d) for vectors.
    `batches` reads the samples (`messages`, `tools`, `source`) in the order of the files, each with
    the numbers of its rows, so that no scorer has to hold all texts.
    """

    n: int
    columns: Mapping[str, np.ndarray | Ragged]
    batches: Callable[[], Iterator[tuple[np.ndarray, pa.RecordBatch]]]

    def texts(self, view: View) -> list[str]:
        """The text of a view of every row; "" where it has none. Holds all texts in memory."""
        found = [""] * self.n
        for rows, batch in self.batches():
            turns = samples.decode_messages(batch.column("messages"))
            for row, messages in zip(rows.tolist(), turns, strict=True):
                found[row] = text(messages, view)
        return found


@dataclass(frozen=True, slots=True)
class PoolColumns:
    """What a `PoolScorer` gives: columns (n,), and where it makes labels one row a label.

    `labels` has `name` (L,) texts and, for methods that compare labels, `embedding` (L, d) float32.
    `facts` are single values worth telling: parameters that were derived, counts.
    """

    columns: Columns
    labels: Mapping[str, np.ndarray] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


class PoolScorer(Scorer, Protocol):
    """A signal that needs all rows at once: duplicates, clusters, ranks.

    It is stored for exactly this pool and computed again when the pool or a column it needs
    changes. What it draws at random comes from an option `seed`.
    """

    def needs(self) -> frozenset[str]:
        """The columns it reads: of the samples (`family`) or of other signals (`embed.vector`)."""
        ...

    def score_pool(self, rows: Rows, *, advance: Advance) -> PoolColumns:
        """Score all rows, in their order."""
        ...
