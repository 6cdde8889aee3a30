"""Whether rows with like questions have like answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tamis.errors import DataError, RecipeError
from tamis.numerics.blocked import rows_per_block, unit_rows
from tamis.numerics.neighbours import most_similar
from tamis.scoring.base import Advance, PoolColumns, Rows

F64 = NDArray[np.float64]
NO_VECTOR = "no_vector"
ALONE = "no_neighbour"


@dataclass(frozen=True)
class Neighbours:
    """Looks at the `count` rows whose questions are nearest, by the cosine of `questions`.

    `same` is the share of them that give the very same answer (case and outer white space aside),
    each weighted by its cosine (0 where it is below). With `answers`, a column of vectors of the
    answers, `agreement` is the weighted mean cosine of theirs to the row's own; else it is null.
    `cosine` is the mean cosine of the questions: low, and neither says much. A low value marks an
    answer that the surroundings contradict: wrong, or rare.

    The k-nearest-neighbour test for label noise (Cover and Hart, 1967; for text as in Zhu et al.,
    "Detecting Corrupted Labels Without Training a Model to Predict", 2022, arXiv 2110.06283), here
    without votes over classes, since answers are free text. O(n^2 d) in blocks.
    """

    questions: str = "embed.vector"
    answers: str | None = None
    count: int = 10

    name: ClassVar[str] = "neighbours"
    version: ClassVar[int] = 1
    about: ClassVar[Mapping[str, str]] = {
        "sentence": "Whether rows with like questions give the same or a like answer.",
        "needs": "an embedding of the questions (view user), and for agreement one of the answers",
        "view": "none: it reads columns",
        "cost": "a minute or two per 100k rows on two cores",
        "avoid": "where every answer is its own: it then measures how common a row is",
    }
    fields = ("same", "agreement", "cosine", "reason")

    def needs(self) -> frozenset[str]:
        """The vectors."""
        return frozenset({self.questions, *([self.answers] if self.answers else [])})

    def identity(self) -> Mapping[str, Any]:
        """The options."""
        return {"questions": self.questions, "answers": self.answers, "count": self.count}

    def check(self) -> None:
        """Raise if an option is out of range."""
        if self.count < 1:
            raise RecipeError(f"neighbours.count must be 1 or more, got {self.count}")

    def score_pool(self, rows: Rows, *, advance: Advance) -> PoolColumns:
        """`same`, `agreement` and `cosine`; undefined, with a `reason`, where no vector is."""
        asked = self._vectors(rows, self.questions)
        told = None if self.answers is None else self._vectors(rows, self.answers)
        some = np.isfinite(asked).all(axis=1) & (asked != 0).any(axis=1)
        if told is not None:
            some &= np.isfinite(told).all(axis=1)
        reason = np.full(rows.n, None, dtype=object)
        reason[~some] = NO_VECTOR
        at = np.flatnonzero(some)
        columns = {name: np.full(rows.n, np.nan) for name in self.fields[:3]}
        if len(at) < 2:
            reason[at] = ALONE
            return PoolColumns({**columns, "reason": reason})
        near, cosine = _others(asked[at], min(self.count, len(at) - 1))
        _, code = np.unique(_plain(rows.texts("answer"))[at], return_inverse=True)
        total = cosine.sum(axis=1)
        reason[at[total == 0]] = ALONE
        safe = np.where(total == 0, np.nan, total)
        columns["same"][at] = (cosine * (code[near] == code[:, None])).sum(axis=1) / safe
        columns["cosine"][at] = cosine.mean(axis=1)
        if told is not None:
            alike = _cosines(unit_rows(told[at]), near)
            columns["agreement"][at] = (cosine * alike).sum(axis=1) / safe
        advance(rows.n)
        return PoolColumns({**columns, "reason": reason})

    def _vectors(self, rows: Rows, name: str) -> NDArray[np.float32]:
        found = np.asarray(rows.columns[name])
        if found.ndim != 2:
            raise DataError(f"neighbours: the column {name} must hold vectors, one a row")
        return found.astype(np.float32, copy=False)


def _others(x: NDArray[np.float32], count: int) -> tuple[NDArray[np.int64], F64]:
    """The most similar rows of each row without itself, and their cosines."""
    near, cosine = most_similar(x, count + 1)
    own = near == np.arange(len(x))[:, None]
    # Among more copies of a row than there are places, it may not be there itself.
    own[~own.any(axis=1), -1] = True
    shape = (len(x), count)
    return near[~own].reshape(shape), cosine[~own].reshape(shape)


def _plain(texts: list[str]) -> NDArray[Any]:
    return np.array([text.strip().casefold() for text in texts], dtype=object)


def _cosines(unit: NDArray[np.float32], near: NDArray[np.int64]) -> F64:
    """The cosine of each row with each of its neighbours, (n, count), a block at a time."""
    found = np.empty(near.shape)
    step = rows_per_block(near.shape[1] * unit.shape[1])
    for start in range(0, len(unit), step):
        part = slice(start, start + step)
        found[part] = np.einsum("id,ijd->ij", unit[part], unit[near[part]])
    return found
