"""What a tuned model likes more than its base: the contrast of their log-probabilities."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tamis.numerics.ragged import Ragged

F64 = NDArray[np.float64]


def log_softmax(logits: NDArray[np.floating]) -> F64:
    """Log-probabilities over the last axis, in float64."""
    z: F64 = logits.astype(np.float64)
    z -= z.max(axis=-1, keepdims=True)
    z -= np.log(np.exp(z).sum(axis=-1, keepdims=True))
    return z


def token_scores(
    tuned: NDArray[np.floating],
    base: NDArray[np.floating],
    *,
    alpha: float = 0.1,
    gamma: float = 1.0,
) -> F64:
    """log p_tuned - gamma log p_base of every token of the vocabulary, from logits (..., V).

    -inf where the tuned model gives less than `alpha` of its best token's probability; the best
    always stays. A softmax of the result is what contrastive sampling draws from.

    Source: Li et al., "Contrastive Decoding", 2022 (arXiv 2210.15097); Isonuma and Titov, "What's
    New in My Data?", 2024 (arXiv 2410.14765).
    """
    return contrast(log_softmax(tuned), log_softmax(base), alpha=alpha, gamma=gamma)


def contrast(likes: F64, knew: F64, *, alpha: float, gamma: float) -> F64:
    """`token_scores` of log-probabilities (..., V). What must not be drawn may stand at -inf in
    `likes`: the others need not sum to 1."""
    floor = likes.max(axis=-1, keepdims=True) + (np.log(alpha) if alpha > 0 else -np.inf)
    return np.where(likes >= floor, likes - gamma * knew, -np.inf)


def sequence_scores(tuned: Ragged, base: Ragged) -> tuple[F64, F64]:
    """Mean and sum over the tokens of a text of log p_tuned - log p_base, each (n,).

    Both hold the log-probabilities of the same tokens; NaN where a text has none. A high mean says
    that the text is typical of what tuning added.
    """
    difference = tuned.values.astype(np.float64) - base.values
    sizes = np.diff(tuned.indptr)
    rows = np.repeat(np.arange(len(sizes)), sizes)
    total = np.asarray(np.bincount(rows, difference, len(sizes)), dtype=np.float64)
    total[sizes == 0] = np.nan
    return total / np.maximum(sizes, 1), total
