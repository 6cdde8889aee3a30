"""How like a sampled answer is to the given one: three measures in [0, 1], never mixed."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
_WORD = re.compile(r"\b\w+\b")


def same(one: str, other: str) -> bool:
    """Whether two texts are equal but for white space."""
    return one.split() == other.split()


def entailed(forward: NDArray[np.floating], backward: NDArray[np.floating]) -> F64:
    """1 - the mean probability of contradiction in both directions; each (...,)."""
    return 1 - (np.asarray(forward, dtype=np.float64) + backward) / 2


def cosine(given: NDArray[np.floating], sampled: NDArray[np.floating]) -> F64:
    """Cosine of embeddings, clipped to [0, 1]: (..., d) each. 0 where one is zero or NaN.

    Blind to contradiction: "the answer is 7" and "the answer is 8" lie close together.
    """
    a = np.nan_to_num(np.asarray(given, dtype=np.float64))
    b = np.nan_to_num(np.asarray(sampled, dtype=np.float64))
    scale = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    dots = (a * b).sum(axis=-1)
    found: F64 = np.divide(dots, scale, out=np.zeros(scale.shape), where=scale > 0)
    return np.clip(found, 0, 1)


def jaccard(one: str, other: str) -> float:
    """Shared words over all words of two texts, as sets, case-sensitive; 0 if neither has one."""
    a, b = set(_WORD.findall(one)), set(_WORD.findall(other))
    return len(a & b) / max(1, len(a | b))


def probability(total: NDArray[np.floating], tokens: NDArray[np.integer]) -> F64:
    """The geometric mean of token probabilities from their summed log-probabilities (n,).

    NaN without tokens. Not of the paper: a cheap stand-in for consistency, biased against long and
    unusual answers.
    """
    with np.errstate(invalid="ignore"):
        found: F64 = np.exp(total / np.where(tokens > 0, tokens, np.nan))
    return found
