"""Rows whose gradients point where the target's do (LESS)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from tamis.errors import DataError, RecipeError
from tamis.numerics.blocked import rows_per_block, unit64
from tamis.selectors import checks
from tamis.selectors.base import About, Pool, Selection

F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Less:
    """Score = sum over checkpoints of weight x mean cosine with a target group; best group counts.

    `features` are columns of projected gradients, one a checkpoint, in the pool and in its
    target; `weights` the learning rates of the checkpoints (default: equal). The target's column
    `group` names its groups (tasks); without it all target rows are one group. `over_groups`:
    `max` (the paper) or `mean`. Takes the k best scores, ties to the lowest row.

    O(n p) with p the width of the features. Source: Xia et al., "LESS", 2024 (arXiv 2402.04333).
    Nothing here computes gradients: how good they are (Adam's scaling, warm-up, projection) is
    up to the columns given. One checkpoint is possible where the paper uses four.
    """

    features: tuple[str, ...] = ("gradient.vector",)
    weights: tuple[float, ...] | None = None
    group: str | None = None
    over_groups: Literal["max", "mean"] = "max"

    name: ClassVar[str] = "less"
    prefix: ClassVar[bool] = True
    target: ClassVar[Literal["required", "optional"]] = "required"
    version: ClassVar[int] = 1
    about: ClassVar[About] = About(
        sentence="Takes the rows whose training gradients agree most with those of target rows.",
        needs="projected gradients of the pool and of a target",
        cost="seconds once the gradients exist",
        avoid="without a trusted target, or when diversity matters: only the score counts",
    )

    def __post_init__(self) -> None:
        if not self.features:
            raise RecipeError("less.features must name at least one column")
        if self.weights is not None and len(self.weights) != len(self.features):
            raise RecipeError(
                f"less.weights must hold one number for each of the {len(self.features)} features"
            )

    def needs(self) -> frozenset[str]:
        """The gradient features."""
        return frozenset(self.features)

    def target_needs(self) -> frozenset[str]:
        """The columns the target must have: the features, and the group where named."""
        return frozenset({*self.features, *((self.group,) if self.group else ())})

    def select(self, pool: Pool, k: int, *, rng: np.random.Generator) -> Selection:
        """The k best scores; `cluster` is the number of the target group that agreed most."""
        k = checks.budget(k, pool.n)
        score, best, names = self.score(pool)
        index = np.argsort(-score, kind="stable")[:k].astype(np.int64)
        rows = {"reason": checks.reasons(pool.n, "below_cut", index), "cluster": best}
        facts: dict[str, float | int | str] = {"groups": len(names)}
        for g, name in enumerate(names):
            facts[f"kept.{name}"] = int((best[index] == g).sum())
        return Selection(index, score[index], facts=facts, rows=rows)

    def score(self, pool: Pool) -> tuple[F64, NDArray[np.int64], list[str]]:
        """The score of each row, the group it agrees with most, the names of the groups."""
        if pool.target is None:
            raise DataError("less needs a target: rows that show what the model should learn")
        if pool.target.n == 0:
            raise DataError("less needs a target of at least one row, got an empty one")
        names, member = self._groups(pool.target)
        weights = self.weights or (1.0,) * len(self.features)
        total = np.zeros((pool.n, len(names)))
        for name, weight in zip(self.features, weights, strict=True):
            x, y = checks.matrix(pool, name), checks.matrix(pool.target, name)
            if len(x) and x.shape[1] != y.shape[1]:
                raise DataError(
                    f"column {name} has {x.shape[1]} numbers a row in the pool "
                    f"and {y.shape[1]} in the target"
                )
            # The mean of cosines is the product with the mean of unit rows.
            towards = (member @ unit64(y)) / member.sum(axis=1, keepdims=True)
            step = rows_per_block(x.shape[1])
            for start in range(0, len(x), step):
                part = unit64(x[start : start + step])
                total[start : start + step] += weight * (part @ towards.T)
        # Rounded, so that equal rows tie whatever the shape of the product.
        total = np.round(total, 12)
        best = total.argmax(axis=1).astype(np.int64)
        return (total.max(axis=1) if self.over_groups == "max" else total.mean(axis=1)), best, names

    def _groups(self, target: Pool) -> tuple[list[str], F64]:
        if self.group is None:
            return ["target"], np.ones((1, target.n))
        names, label = np.unique(checks.texts(target, self.group), return_inverse=True)
        member = np.zeros((len(names), target.n))
        member[label, np.arange(target.n)] = 1
        return [str(name) for name in names], member
