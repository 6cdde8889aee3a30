"""How a model answers a question with lettered options, from its next-token log-probabilities."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
# Below this the model said something else than a letter.
LEAST_MASS = 1e-2


class Answers(NamedTuple):
    """`share` (..., o) of each option among the options, NaN where the answer could not be read;
    `mass` (...,) the probability of all options together."""

    share: F64
    mass: F64

    @property
    def read(self) -> NDArray[np.bool_]:
        """Where the answer could be read."""
        return self.mass >= LEAST_MASS

    def soft(self, values: tuple[float, ...]) -> F64:
        """The expected value, for options worth `values`; NaN where nothing could be read."""
        expected: F64 = self.share @ np.asarray(values)
        return expected

    def hard(self, values: tuple[float, ...]) -> F64:
        """The value of the most probable option, of equals the first; NaN as above."""
        chosen = np.argmax(np.nan_to_num(self.share), axis=-1)
        return np.where(self.read, np.asarray(values)[chosen], np.nan)


def answers(logprobs: NDArray[np.floating], spellings: list[int]) -> Answers:
    """Read options off the natural log-probabilities (..., t) of their spellings.

    `spellings` tells how many of the t tokens belong to each option, in order: the log-softmax is
    over the whole vocabulary, so `mass` says how much of it was a letter at all.
    """
    p = np.exp(np.asarray(logprobs, dtype=np.float64))
    starts = np.cumsum([0, *spellings[:-1]])
    each = np.add.reduceat(p, starts, axis=-1)
    mass = each.sum(axis=-1)
    read = mass >= LEAST_MASS
    share = each / np.where(read, mass, np.nan)[..., None]
    return Answers(share, mass)
