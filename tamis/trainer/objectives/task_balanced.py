"""Balanced tasks: groups of rows count alike, however many rows or tokens they have."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from tamis.errors import DataError, RecipeError
from tamis.selectors.base import About
from tamis.trainer.data import Examples
from tamis.trainer.objectives.base import Course, Objective


@dataclass(frozen=True)
class TaskBalanced(Objective):
    """The four losses of MFTCoder over the groups g that the column `by` names.

    Case 1: the mean over tokens. Case 2: the mean over rows of each row's mean. Case 3: sum_g u_g
    L_g / sum_g u_g with L_g the mean over the tokens of g. Case 4: the same with L_g the mean over
    rows of g of each row's mean. Sums are over the groups in the optimizer step. `weights` gives
    u_g, by default 1. Weights of rows weigh inside every mean; a group of a step whose rows all
    have weight 0 counts as absent.

    Source: "MFTCoder", 2023 (arXiv 2311.02303), whose code balances inside each micro-batch, so
    that its loss hangs on how rows are batched; here over the whole step and all ranks.
    """

    by: str = "source"
    case: Literal[1, 2, 3, 4] = 3
    weights: dict[str, float] = field(default_factory=dict)

    name = "task_balanced"
    about = About(
        sentence="The mean of the losses of groups, each counting alike or as given.",
        needs="a column of the manifest that names the group of each row",
        cost="none beyond the forward pass",
        avoid="groups of a few rows, which are then repeated in effect",
    )

    def __post_init__(self) -> None:
        if self.weights and self.case in (1, 2):
            raise RecipeError(f"task_balanced: case={self.case} has no groups to weigh: use 3 or 4")
        for group, weight in self.weights.items():
            if not 0 < weight < float("inf"):
                raise RecipeError(f"task_balanced: weight {weight} of {group!r}: expected above 0")

    def group_by(self) -> str | None:
        """See `Objective`."""
        return self.by

    def check(self, examples: Examples, course: Course) -> None:
        """See `Objective`."""
        groups = {*_groups(examples)}
        if self.weights and groups != {*self.weights}:
            odd = sorted(groups ^ {*self.weights})[0]
            raise DataError(
                f"task_balanced: weights must name every group of {self.by} and no other, "
                f"{odd!r} is in only one of the two"
            )

    def rows(self, examples: Examples, step: int, course: Course) -> Examples:
        """See `Objective`: a row of group g is weighted by u_g over the weight of g in the step."""
        masses = examples.masses()
        weight = examples.apiece() if self.case in (2, 4) else examples.weight
        if self.case in (3, 4):
            names, of = np.unique(_groups(examples), return_inverse=True)
            share = np.array([self.weights.get(str(name), 1.0) for name in names])
            whole = np.bincount(of, weights=weight * masses, minlength=len(names))
            weight = weight * np.divide(share, whole, out=np.zeros_like(whole), where=whole > 0)[of]
        return dataclasses.replace(examples, weight=weight)


def _groups(examples: Examples) -> list[str]:
    if examples.group is None:
        raise DataError("task_balanced needs rows with groups: train on rows, not on tokens")
    return examples.group
