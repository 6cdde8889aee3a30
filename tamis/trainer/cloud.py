"""The local intrinsic dimension of hidden states, of the same tokens whenever it is asked."""

from __future__ import annotations

from typing import Any

import numpy as np

from tamis.errors import RecipeError
from tamis.numerics.lid import LEAST_POINTS, distinct, pointwise
from tamis.trainer.data import Examples
from tamis.trainer.online.columns import Columns

# What the authors draw texts and tokens with.
_TEXTS_SEED, _TOKENS_SEED = 778, 42
# Tokens drawn for each point wanted: states of equal beginnings are equal, and count once.
_SPARE = 2


class Cloud:
    """Some tokens of some rows, drawn once: the same at every look, and nested for more `points`.

    `texts` rows at most; of their tokens, without the first of each row (which all rows share and
    which is far from the others), twice as many as `points` in a random order, of which the first
    `points` distinct states count. Raises `RecipeError` where there are fewer than 20 tokens.
    """

    def __init__(self, examples: Examples, *, texts: int, points: int, neighbours: int):
        self.points, self.neighbours = points, neighbours
        rng = np.random.default_rng(_TEXTS_SEED)
        rows = rng.permutation(len(examples))[:texts]
        lengths = examples.lengths[rows] - 1
        ends = np.cumsum(lengths)
        drawn = np.random.default_rng(_TOKENS_SEED).permutation(int(ends[-1]))[: _SPARE * points]
        if len(drawn) < LEAST_POINTS:
            raise RecipeError(
                f"tune.diagnose: a dimension needs {LEAST_POINTS} tokens and the rows have "
                f"{len(drawn)}: set lid: false"
            )
        of = np.searchsorted(ends, drawn, side="right")
        self.place = drawn - (ends - lengths)[of] + 1
        self.rows, self.at = np.unique(rows[of], return_inverse=True)

    def dimension(self, columns: Columns) -> tuple[float, float] | None:
        """Mean and standard deviation of the dimension around each point, by TwoNN, of the last
        hidden states; None where fewer than 20 states are distinct.

        A forward pass of the rows, and O(points^2 width). Source: Ruppik et al., "Less is More",
        2025 (arXiv 2506.01034); see `numerics.lid`.
        """
        import torch

        states: Any = None
        for some, found in columns.chunks(self.rows, frozenset({"hidden"})):
            where = np.full(len(self.rows), -1)
            where[some] = np.arange(len(some))
            mine = np.flatnonzero(where[self.at] >= 0)
            taken = found["hidden"][where[self.at[mine]], self.place[mine]]
            if states is None:
                states = taken.new_zeros(len(self.at), taken.shape[1])
            states[torch.from_numpy(mine).to(taken.device)] = taken
        first = torch.from_numpy(distinct(states.cpu().numpy())[: self.points])
        if len(first) < LEAST_POINTS:
            return None
        dimension = pointwise(states[first.to(states.device)], self.neighbours)
        return float(np.nanmean(dimension)), float(np.nanstd(dimension))
