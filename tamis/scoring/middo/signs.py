"""Rows that stay hard after training, stand alone, or are judged poor (MIDDO)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tamis.errors import DataError, RecipeError
from tamis.numerics import cutoff
from tamis.numerics.cells import told
from tamis.numerics.neighbours import most_similar
from tamis.numerics.ragged import Ragged
from tamis.scoring.base import Advance, PoolColumns, Rows
from tamis.scoring.transforms.columns import NO_VALUE, codes, numbers


@dataclass(frozen=True)
class Middo:
    """Three marks a row, 1 or 0, each from a column; one without its column is not given.

    `hard`: loss above mean + `m_hard` x deviation under the model before training (`pre`) and under
    the one after it (`current`). `sparse`: the mean cosine to the `neighbours` nearest others in
    `embedding`, kept in `similarity`, below mean - `m_sparse` x deviation. `low`: `quality` below
    mean - `m_low` x deviation (of n - 1). Rows without a value are no part of means and have no
    mark. O(n^2 d) for `sparse`, in blocks.

    Source: "Middo", 2025 (arXiv 2508.21589); the thresholds are those of the published code, whose
    multiples for `sparse` and `low` have no default. `within` names columns whose combinations have
    means and deviations of their own, which is not theirs.
    """

    pre: str | None = None
    current: str | None = None
    embedding: str | None = None
    quality: str | None = None
    m_hard: float = 1.0
    m_sparse: float = 1.0
    m_low: float = 1.0
    neighbours: int = 2
    within: tuple[str, ...] = ()

    name: ClassVar[str] = "middo"
    version: ClassVar[int] = 2
    about: ClassVar[Mapping[str, str]] = {
        "sentence": "Marks rows that stay hard after training, stand alone, or are judged poor.",
        "needs": "losses under two models, an embedding, a quality score: what is named",
        "view": "none: it reads columns",
        "cost": "seconds; about a minute per 50k rows for the neighbours",
        "avoid": "as filters of their own: the paper has such rows rewritten, not dropped",
    }
    fields = ("hard", "sparse", "low", "similarity", "reason")

    def needs(self) -> frozenset[str]:
        """The columns that are named."""
        named = (self.pre, self.current, self.embedding, self.quality)
        return frozenset(name for name in named if name is not None) | frozenset(self.within)

    def identity(self) -> Mapping[str, Any]:
        """The options."""
        return {
            "columns": [self.pre, self.current, self.embedding, self.quality],
            "multiples": [self.m_hard, self.m_sparse, self.m_low],
            "neighbours": self.neighbours,
            "within": list(self.within),
        }

    def check(self) -> None:
        """Raise if no mark can be given, or an option is out of range."""
        if (self.pre is None) != (self.current is None):
            raise RecipeError("middo: hard needs both pre and current, the losses of two models")
        if not self.needs() - set(self.within):
            raise RecipeError("middo needs pre and current, embedding, or quality")
        if min(self.m_hard, self.m_sparse, self.m_low) < 0 or self.neighbours < 1:
            raise RecipeError("middo needs multiples of 0 or more and neighbours of 1 or more")

    def score_pool(self, rows: Rows, *, advance: Advance) -> PoolColumns:
        """The marks and `similarity`, float64, NaN where a row or the recipe has no value; `reason`
        `no_value: COLUMN` names the first column that lacks one."""
        columns = {name: np.full(rows.n, np.nan) for name in self.fields[:-1]}
        reason = np.full(rows.n, None, dtype=object)

        def undefined(at: np.ndarray, name: str) -> None:
            reason[at & np.array([r is None for r in reason])] = f"{NO_VALUE}: {name}"

        facts: dict[str, Any] = {}
        within = codes(rows, self.within, self.name)
        if self.pre is not None and self.current is not None:
            before = numbers(rows, self.pre, self.name)
            after = numbers(rows, self.current, self.name)
            known = np.isfinite(before) & np.isfinite(after)
            pre = cutoff.above(np.where(known, before, np.nan), self.m_hard, within)
            now = cutoff.above(np.where(known, after, np.nan), self.m_hard, within)
            undefined(~np.isfinite(before), self.pre)
            undefined(~np.isfinite(after), self.current)
            columns["hard"][known] = (pre.rows & now.rows)[known]
            facts["pre_threshold"] = told(pre.threshold)
            facts["current_threshold"] = told(now.threshold)
        if self.embedding is not None:
            similarity = self._similarity(rows.columns[self.embedding])
            alone = cutoff.below(similarity, self.m_sparse, within)
            known = ~np.isnan(similarity)
            undefined(~known, self.embedding)
            columns["sparse"][known] = alone.rows[known]
            columns["similarity"] = similarity
            facts["sparse_threshold"] = told(alone.threshold)
        if self.quality is not None:
            quality = numbers(rows, self.quality, self.name)
            poor = cutoff.below(quality, self.m_low, within, sample=True)
            known = np.isfinite(quality)
            undefined(~known, self.quality)
            columns["low"][known] = poor.rows[known]
            facts["low_threshold"] = told(poor.threshold)
        advance(rows.n)
        counts = {name: int(np.nansum(columns[name])) for name in ("hard", "sparse", "low")}
        return PoolColumns({**columns, "reason": reason}, facts=facts | counts)

    def _similarity(self, column: np.ndarray | Ragged) -> np.ndarray:
        """Mean cosine to the nearest others, NaN without a vector; below 0 counts as 0."""
        if isinstance(column, Ragged) or column.ndim != 2:
            raise DataError(f"middo: {self.embedding} must hold a vector a row")
        found = np.full(len(column), np.nan)
        some = np.flatnonzero(np.isfinite(column).all(axis=1) & column.any(axis=1))
        if len(some) < 2:
            return found
        index, cosine = most_similar(column[some].astype(np.float32), self.neighbours + 1)
        own = index == np.arange(len(some))[:, None]
        # Of many copies a row may not be among its own nearest: then the last place goes.
        own[~own.any(axis=1), -1] = True
        found[some] = cosine[~own].reshape(len(some), -1).mean(axis=1)
        return found
