"""Greedy picks by a Taylor expansion of the loss on validation rows (GREATS)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tamis.errors import DataError, RecipeError
from tamis.selectors.base import About
from tamis.selectors.online.base import F64, BatchPicker, Mask, Rows, Scores, numbers


def greedy(scores: F64, interaction: F64, eligible: Mask, k: int) -> Rows:
    """Rows in the order picked: the highest, then each score falls by its tie with the pick.

    `scores` (B,), `interaction` (B, B) with the learning rate inside both. Ties go to the lowest
    row; rows without a number come last. O(k B).
    """
    left = np.where(eligible & np.isfinite(scores), scores, -np.inf)
    chosen: list[int] = []
    while len(chosen) < k and np.isfinite(left).any():
        row = int(np.argmax(left))
        chosen.append(row)
        left = left - np.where(np.isfinite(interaction[row]), interaction[row], 0.0)
        left[row] = -np.inf
    rest = np.setdiff1d(np.flatnonzero(eligible), chosen)
    return np.asarray([*chosen, *rest[: k - len(chosen)]], np.int64)


@dataclass
class Greats(BatchPicker):
    """Keep the rows whose step lowers the validation loss most, each less what is picked already.

    score_i = lr * mean_j <g_i, v_j>; after each pick, score_i falls by lr^2 <g_i, g_pick>. `lr` is
    `learning_rate`. Columns: `gradient` (B, p), `target_gradient` (m, p), of the same (projected)
    parameters. O(B (B + m) p).

    Source: Wang et al., "GREATS", 2024. Differs from the authors' code: gradients are of each
    row's own mean loss, not of the joint batch, whose size scales both terms.
    """

    learning_rate: float = 1e-4

    name: ClassVar[str] = "greats"
    about: ClassVar[About] = About(
        sentence="Keeps rows whose gradients point where a few validation rows want to go.",
        needs="the gradient of each row and of validation rows",
        cost="a forward and a backward pass a candidate",
        avoid="without validation rows that stand for the task, or when speed is the aim",
    )

    def __post_init__(self) -> None:
        if not self.learning_rate > 0:
            raise RecipeError(f"greats.learning_rate must be above 0, got {self.learning_rate}")

    def needs(self) -> frozenset[str]:
        """Both gradients."""
        return frozenset({"gradient", "target_gradient"})

    def score(self, batch: Mapping[str, Any]) -> Scores:
        """The first-order gain, and `interaction` (B, B)."""
        own = numbers(batch, "gradient", self.name)
        target = numbers(batch, "target_gradient", self.name)
        if own.ndim != 2 or target.ndim != 2 or own.shape[1] != target.shape[1] or not len(target):
            raise DataError(
                "greats needs gradients (B, p) and validation gradients (m, p), m of 1 or more, "
                f"got {own.shape} and {target.shape}"
            )
        rate = self.learning_rate
        return {"total": rate * own @ target.mean(axis=0), "interaction": rate**2 * own @ own.T}

    def part(self, scores: Scores, rows: Rows) -> Scores:
        """Of `interaction` the rows and the columns."""
        found = super().part(scores, rows)
        return {**found, "interaction": found["interaction"][:, rows]}

    def pick(self, scores: Scores, eligible: Mask, k: int) -> Rows:
        """Greedily, then ascending."""
        return np.sort(greedy(scores["total"], scores["interaction"], eligible, k))
