"""A score from 1 to 6 read from the logits of six digits, as the EVOL scorers of DEITA give it."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

# The digits a scorer was trained to answer with.
DIGITS = 6


def expectation(logits: ArrayLike) -> NDArray[np.float64]:
    """The expected digit of each row: sum of k x p_k, p the softmax over the six digits alone.

    `logits` (n, 6), of the tokens "1" to "6" in this order, at the position after the prompt; log
    probabilities do as well, since a constant added to a row changes nothing. Returns (n,) float64
    between 1 and 6. A row in which a logit is missing (NaN or infinite) is NaN.

    Source: Liu et al., "What Makes Good Data for Alignment?", 2024 (arXiv 2312.15685). Differs
    from the authors' code, which gives 3.0 when a digit is missing.
    """
    given = np.asarray(logits, dtype=np.float64)
    if given.ndim != 2 or given.shape[1] != DIGITS:
        raise ValueError(f"digit logits must have shape (n, {DIGITS}), got {given.shape}")
    score = np.full(len(given), np.nan)
    whole = np.isfinite(given).all(axis=1)
    if whole.any():
        known = given[whole]
        share = np.exp(known - known.max(axis=1, keepdims=True))
        score[whole] = share @ np.arange(1.0, DIGITS + 1) / share.sum(axis=1)
    return score
