"""What the logits of a model say of given labels, in float64, for models that run elsewhere."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tamis.errors import DataError

F64 = NDArray[np.float64]


class Scores(NamedTuple):
    """One value a label, float64: `logprob` its natural log-probability, `entropy` of the whole
    distribution in nats, `el2n` and `el1n` the L2 and L1 norm of softmax - onehot(label)."""

    logprob: F64
    entropy: F64
    el2n: F64
    el1n: F64


def label_scores(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> Scores:
    """Score labels (...,) by `logits` (..., V); every field has the shape of `labels`.

    O(size of logits), which is copied to float64 once. EL2N lies between 0 (all on the label) and
    sqrt 2 (all on another); uniform logits give sqrt(1 - 1/V) and entropy ln V. Source of EL2N:
    Paul et al., "Deep Learning on a Data Diet", 2021 (arXiv 2107.07075). Raises `DataError` on
    shapes that do not fit and labels out of range.
    """
    if logits.shape[:-1] != labels.shape:
        raise DataError(
            f"logits {logits.shape} expect labels {logits.shape[:-1]}, not {labels.shape}"
        )
    if labels.size and not 0 <= labels.min() <= labels.max() < logits.shape[-1]:
        raise DataError(
            f"labels must lie in 0..{logits.shape[-1] - 1}, given {labels.min()}..{labels.max()}"
        )
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True, initial=-np.inf)
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    place = labels[..., None].astype(np.int64)
    logprob: F64 = np.take_along_axis(shifted, place, axis=-1)[..., 0]
    error = np.exp(shifted)
    # Where p is 0 its logarithm may be -inf, and the product counts as 0.
    entropy: F64 = -(error * np.where(error > 0, shifted, 0)).sum(axis=-1)
    np.put_along_axis(error, place, np.expm1(logprob)[..., None], axis=-1)
    el2n: F64 = np.sqrt((error * error).sum(axis=-1))
    return Scores(logprob, entropy, el2n, np.abs(error).sum(axis=-1))
