"""How much a surrogate model's risk would rise without a row (DEALRec's influence)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from tamis.errors import DataError, RecipeError
from tamis.numerics import influence
from tamis.scoring.base import Advance, PoolColumns, Rows

NO_VECTOR = "no_vector"
NO_LABEL = "no_label"
# Strength of |W|^2 when softmax regression is fitted: enough that the risk's gradient stays.
_DECAY = 1e-3


@dataclass(frozen=True)
class Influence:
    """I_s = < H^-1 v, g_s >: v the gradient of the mean loss of the pool, H its Hessian, g_s the
    gradient of row s, all in one block of a surrogate model. High: without the row the risk rises.

    Without `labels` the surrogate is the language model behind `vectors`, a column of projected
    gradients, and H their second moment (empirical Fisher). With `labels`, a column of classes,
    it is softmax regression from `vectors`, an embedding, with its exact Hessian: cheap, and no
    language model is needed. H gets `damping` times its mean eigenvalue. `solver: lissa` is the
    recursion of the authors' code, `depth` steps on one random row each with `scale`; it has a
    damping of its own, 0.01 x scale. Rows of equal content count as often as they occur.

    O(n d) a step of conjugate gradient, mostly 10 to 50. Source: Lin et al., "DEALRec", 2024 (arXiv
    2401.17197), whose surrogate is a recommender; its mean gradient over-weights the last batch.
    """

    vectors: str = "gradient.vector"
    labels: str | None = None
    damping: float = 0.1
    solver: Literal["exact", "lissa"] = "exact"
    depth: int = 5000
    scale: float = 25.0
    seed: int = 0

    name: ClassVar[str] = "influence"
    version: ClassVar[int] = 1
    about: ClassVar[Mapping[str, str]] = {
        "sentence": "How much a small model's mean loss would rise without a row.",
        "needs": "projected gradients of a language model, or an embedding and labels",
        "view": "none: it reads columns",
        "cost": "a minute per 100k rows once the columns exist",
        "avoid": "with a model trained to the end on the pool: its mean gradient is noise",
    }
    fields = ("value", "reason")

    def needs(self) -> frozenset[str]:
        """The vectors, and the labels where named."""
        return frozenset(name for name in (self.vectors, self.labels) if name)

    def identity(self) -> Mapping[str, Any]:
        """The options."""
        return dataclasses.asdict(self)

    def check(self) -> None:
        """Raise if an option is out of range."""
        if self.damping <= 0 or self.depth < 1 or self.scale <= 0 or self.seed < 0:
            raise RecipeError("influence needs damping > 0, depth >= 1, scale > 0 and seed >= 0")

    def score_pool(self, rows: Rows, *, advance: Advance) -> PoolColumns:
        """`value` float64 (n,), NaN with a `reason` where a row lacks a vector or a label."""
        vectors = np.asarray(rows.columns[self.vectors])
        if vectors.ndim != 2:
            raise DataError(f"column {self.vectors} must hold a vector a row")
        classes = np.zeros(0) if self.labels is None else self._column(rows, self.labels)
        reason = np.full(rows.n, None, dtype=object)
        missing = [i for i, label in enumerate(classes.tolist()) if label is None or label != label]
        reason[missing] = NO_LABEL
        reason[~np.isfinite(vectors).all(axis=1)] = NO_VECTOR
        some = np.flatnonzero([r is None for r in reason])
        value = np.full(rows.n, np.nan)
        facts: dict[str, Any] = {"rows": len(some)}
        if len(some):
            model = self._surrogate(vectors[some], classes[some] if len(classes) else None)
            v = model.gradient()
            value[some] = model.dots(self._inverse(model, v))
            facts |= {"gradient_norm": round(float(np.linalg.norm(v)), 6), "numbers": len(v)}
        advance(rows.n)
        return PoolColumns({"value": value, "reason": reason}, facts=facts)

    def _column(self, rows: Rows, name: str) -> np.ndarray:
        column = rows.columns[name]
        if not isinstance(column, np.ndarray) or column.ndim != 1:
            raise DataError(f"column {name} must hold one label a row")
        return column

    def _surrogate(self, vectors: np.ndarray, classes: np.ndarray | None) -> influence.Surrogate:
        if classes is None:
            return influence.Gradients(vectors)
        names, y = np.unique(classes.astype(str), return_inverse=True)
        if len(names) < 2:
            raise DataError(f"column {self.labels} must hold two labels or more, given {names[0]}")
        return influence.fit(vectors, y, len(names), decay=_DECAY)

    def _inverse(self, model: influence.Surrogate, v: np.ndarray) -> np.ndarray:
        if self.solver == "exact":
            damping = self.damping * model.trace() / len(v)
            return influence.solve(model, v, damping=damping) if damping > 0 else np.zeros_like(v)
        picks = np.random.default_rng(self.seed).integers(model.rows, size=self.depth)
        return influence.lissa(model, v, picks.tolist(), scale=self.scale)
