"""A uniform random subset: the baseline every other method has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tamis.selectors import checks
from tamis.selectors.base import About, Pool, Selection


@dataclass(frozen=True)
class Random:
    """Every subset of size k is equally likely; a larger budget continues the smaller one.

    O(n). No paper.
    """

    name: ClassVar[str] = "random"
    prefix: ClassVar[bool] = True
    version: ClassVar[int] = 1
    about: ClassVar[About] = About(
        sentence="Picks rows uniformly at random.",
        needs="nothing",
        cost="milliseconds",
        avoid="as the final word: it is the baseline to compare with",
    )

    def needs(self) -> frozenset[str]:
        """No column."""
        return frozenset()

    def select(self, pool: Pool, k: int, *, rng: np.random.Generator) -> Selection:
        """The first k rows of a random order; every gain is 0."""
        index = rng.permutation(pool.n)[: checks.budget(k, pool.n)].astype(np.int64)
        rows = {"reason": checks.reasons(pool.n, "not_drawn", index)}
        return Selection(index, np.zeros(len(index)), rows=rows)
