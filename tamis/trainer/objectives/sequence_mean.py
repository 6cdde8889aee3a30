"""The mean over rows of the mean -log p in each."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from tamis.selectors.base import About
from tamis.trainer.data import Examples
from tamis.trainer.objectives.base import Course, Objective


@dataclass(frozen=True)
class SequenceMean(Objective):
    """loss = sum_s w_s mean_t nll_t / sum_s w_s over the rows s of a step: every row counts alike,
    whatever its length."""

    name = "sequence_mean"
    about = About(
        sentence="The weighted mean over rows of each row's mean -log p.",
        needs="nothing",
        cost="none beyond the forward pass",
        avoid="many very short answers, whose tokens then count most",
    )

    def rows(self, examples: Examples, step: int, course: Course) -> Examples:
        """See `Objective`."""
        return dataclasses.replace(examples, weight=examples.apiece())
