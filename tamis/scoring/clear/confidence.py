"""What makes a confidence of consistency and reflection."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]


def consistency(similarity: NDArray[np.floating], equal: NDArray[np.bool_], alpha: float) -> F64:
    """O = mean of alpha s_i + (1 - alpha) r_i over the sampled answers, float64 (n,).

    `similarity` s in [0, 1] and `equal` r are (n, k) and compare each sampled answer with the given
    one, never with each other. NaN for k = 0. Source: Chen and Mueller, 2023 (arXiv 2308.16175).
    """
    each = alpha * np.asarray(similarity, dtype=np.float64) + (1 - alpha) * equal
    return mean_of_known(each)


def mean_of_known(values: NDArray[np.floating]) -> F64:
    """The mean along the last axis of what is not NaN; NaN where there is nothing."""
    known = ~np.isnan(values)
    count = known.sum(axis=-1)
    total = np.where(known, values, 0.0).sum(axis=-1)
    mean: F64 = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return mean


def mixed(parts: NDArray[np.floating], weights: NDArray[np.floating]) -> F64:
    """The weighted mean of parts (n, p), float64 (n,); weights of parts that are NaN are left out.

    NaN where no part with a weight is known.
    """
    weight = np.where(np.isnan(parts), 0.0, weights)
    total = weight.sum(axis=-1)
    sums = (np.nan_to_num(parts) * weight).sum(axis=-1)
    found: F64 = np.divide(sums, total, out=np.full(total.shape, np.nan), where=total > 0)
    return found


def confidence(consistent: F64, reflected: F64, beta: float) -> F64:
    """C = beta O + (1 - beta) S (n,); where one of them is NaN, the other alone."""
    parts = np.stack([consistent, reflected], axis=-1)
    return mixed(parts, np.array([beta, 1 - beta]))
