"""Weights of clusters between rounds of training (iterative k-means-quality)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tamis.errors import DataError

F64 = NDArray[np.float64]
Rows = NDArray[np.int64]
Rule = Literal["exp_multiplicative", "code", "eq6"]


def cluster_scores(labels: Rows, score: F64, count: int, shrink: float = 0.0) -> F64:
    """Mean score of each cluster, NaN where none was scored (count,).

    `shrink` a: (n_j s_j + a mean) / (n_j + a), mean over all scored rows, so that clusters with
    few scored rows lie closer to it.
    """
    if len(score) == 0:
        raise DataError("weights need at least one scored row")
    if not np.isfinite(score).all():
        raise DataError(f"{int((~np.isfinite(score)).sum())} scores of the round are NaN")
    sizes = np.bincount(labels, minlength=count)
    total = np.bincount(labels, score, minlength=count)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean: F64 = (total + shrink * score.mean()) / (sizes + shrink)
    mean[sizes == 0] = np.nan
    return mean


def update(weight: F64, score: F64, rule: Rule, temperature: float = 1.0) -> F64:
    """The weights after a round with these cluster scores (NaN: not scored); they sum to 1.

    `exp_multiplicative`: old weight x number scored x softmax(score / temperature) for scored
    clusters, x 1 for the others. `code`: the softmax alone, the authors' code; unscored clusters
    get the mean weight, where theirs stops with an error. `eq6`: old weight x score / sum of
    scores, the paper's equation, after a shift when a score is not above 0.
    """
    have = ~np.isnan(score)
    new = np.zeros_like(weight)
    if not have.any():
        new += weight
    elif rule == "eq6":
        new[have] = _positive(score[have])
        new[have] /= new[have].sum()
        new[have] *= weight[have]
        new[~have] = new[have].mean()
    else:
        share = softmax(score[have] / temperature)
        if rule == "code":
            new[have], new[~have] = share, 1 / have.sum()
        else:
            new[have] = weight[have] * have.sum() * share
            new[~have] = weight[~have]
    normalised: F64 = new / new.sum()
    return normalised


def softmax(values: F64) -> F64:
    """exp(values) over its sum."""
    grown = np.exp(values - values.max())
    share: F64 = grown / grown.sum()
    return share


# Scores and spreads below this would vanish when they are divided and weighted.
_VANISHING = 1e-290


def _positive(score: F64) -> F64:
    if score.min() > _VANISHING:
        return score
    spread = float(score.max() - score.min())
    # The lowest cluster keeps a little, so that it does not die at once.
    shifted: F64 = score - score.min() + (0.01 * spread if spread > _VANISHING else 1.0)
    return shifted
