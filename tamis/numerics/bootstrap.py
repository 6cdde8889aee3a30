"""Percentile bootstrap intervals of ratios of sums, and of the difference of two of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tamis.errors import DataError

Interval = tuple[float, float, float]
_CELLS = 4_000_000


def interval(
    values: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    resamples: int = 2000,
    level: float = 0.95,
    rng: np.random.Generator,
) -> Interval:
    """(mean, low, high) of a weighted mean over rows."""
    given = np.asarray(values, dtype=np.float64)
    weight = np.ones_like(given) if weights is None else np.asarray(weights, dtype=np.float64)
    return ratio_interval(given * weight, weight, resamples=resamples, level=level, rng=rng)


def ratio_interval(
    num: ArrayLike,
    den: ArrayLike,
    *,
    resamples: int = 2000,
    level: float = 0.95,
    rng: np.random.Generator,
) -> Interval:
    """(point, low, high) of sum(num) / sum(den), rows resampled with replacement.

    `num` and `den` (n,), one entry a row: a token-mean loss has the loss sums and the token
    counts. Time O(n resamples); memory bounded, whatever both are. Raises `DataError` for no
    rows, NaN, unequal lengths, negative denominators or a denominator that sums to 0.
    """
    columns = _columns(num, den)
    sums = resampled_sums(columns, resamples, rng)
    return _summary(_ratio(columns.sum(axis=0)), _ratio(sums), level)


def paired_difference(
    num_a: ArrayLike,
    den_a: ArrayLike,
    num_b: ArrayLike,
    den_b: ArrayLike,
    *,
    resamples: int = 2000,
    level: float = 0.95,
    rng: np.random.Generator,
) -> Interval:
    """(point, low, high) of ratio A minus ratio B over the same rows, resampled together.

    Row i of A and of B must be the same evaluation row: what both find hard cancels out.
    """
    a, b = _columns(num_a, den_a), _columns(num_b, den_b)
    if len(a) != len(b):
        raise DataError(f"a paired difference needs the same rows twice, got {len(a)} and {len(b)}")
    columns = np.concatenate([a, b], axis=1)
    sums = resampled_sums(columns, resamples, rng)
    whole = columns.sum(axis=0)
    point = _ratio(whole[:2]) - _ratio(whole[2:])
    return _summary(point, _ratio(sums[:, :2]) - _ratio(sums[:, 2:]), level)


def _columns(num: ArrayLike, den: ArrayLike) -> NDArray[np.float64]:
    top, bottom = np.asarray(num, dtype=np.float64), np.asarray(den, dtype=np.float64)
    if top.ndim != 1 or top.shape != bottom.shape or len(top) == 0:
        raise DataError(
            f"numerators and denominators must be two lists of the same length >= 1, "
            f"got shapes {top.shape} and {bottom.shape}"
        )
    if not (np.isfinite(top).all() and np.isfinite(bottom).all()):
        raise DataError("numerators and denominators must be finite; drop the rows without a value")
    if bottom.min() < 0 or bottom.sum() == 0:
        raise DataError("denominators must be >= 0 and not all 0")
    return np.stack([top, bottom], axis=1)


def resampled_sums(
    columns: NDArray[np.float64], resamples: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Sums of the columns of (n, columns) over `resamples` draws of n rows: (resamples, columns).

    Time O(n columns resamples); memory bounded beyond the result.
    """
    n, width = columns.shape
    sums = np.empty((resamples, width))
    step = max(1, _CELLS // n)
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        # How often each row was drawn, then one product: a gather of the rows would be slower.
        drawn = rng.integers(n, size=(size, n))
        drawn += np.arange(size)[:, None] * n
        counts = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n)
        sums[start : start + size] = counts @ columns
    return sums


def _ratio(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio: NDArray[np.float64] = sums[..., 0] / sums[..., 1]
    return ratio


def _summary(point: NDArray[np.float64], draws: NDArray[np.float64], level: float) -> Interval:
    # A resample that holds only rows without weight has no ratio.
    usable = draws[np.isfinite(draws)]
    tail = (1 - level) / 2
    low, high = np.quantile(usable, [tail, 1 - tail])
    return float(point), float(low), float(high)
