"""Differences between two methods that were run with several seeds on the same evaluation rows."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tamis.errors import DataError
from tamis.numerics.bootstrap import Interval, resampled_sums

F64 = NDArray[np.float64]


def crossed_difference(
    num_a: ArrayLike,
    den_a: ArrayLike,
    num_b: ArrayLike,
    den_b: ArrayLike,
    *,
    resamples: int = 2000,
    level: float = 0.95,
    rng: np.random.Generator,
) -> Interval:
    """(point, low, high) of figure A minus figure B, seeds and rows resampled, both paired.

    All are (S, R): entry s, r belongs to seed s and evaluation row r. The figure of a seed is the
    sum of `num` over rows divided by that of `den`; the point is the mean over seeds of A - B. A
    resample draws R rows and, apart from them, S seeds with replacement, the same for A and B.

    A few seeds drawn from themselves vary too little, so each bound is at least t sqrt(V) away from
    the point: V is the unbiased variance of the mean over seeds plus that over rows, t the quantile
    with Satterthwaite's degrees of freedom. Simulated with 3 and 5 seeds it covers the truth in 92
    to 99 % of cases, the fewest where seeds differ most.
    With one seed only rows are resampled, and the interval says nothing of other seeds. Time
    O(S R resamples), memory bounded.

    Source: Owen, "The pigeonhole bootstrap", 2007 (arXiv 0712.1111), of which t sqrt(V) is no part.
    """
    given = [np.asarray(x, dtype=np.float64) for x in (num_a, den_a, num_b, den_b)]
    _check(given)
    seeds, rows = given[0].shape
    sums = resampled_sums(np.concatenate(given).T, resamples, rng)
    difference = _difference(sums.reshape(resamples, 4, seeds))
    each = _difference(np.stack([x.sum(axis=1) for x in given])[None])[0]
    point = float(each.mean())
    drawn = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples) / seeds
    usable = np.isfinite(difference).all(axis=1)  # a resample may hold only rows without weight
    by_rows = difference[usable].mean(axis=1)
    both = (difference * drawn)[usable].sum(axis=1)
    low, high = np.quantile(both, [(1 - level) / 2, (1 + level) / 2])
    reach = _reach(each, float(by_rows.var()), rows, level)
    return point, min(float(low), point - reach), max(float(high), point + reach)


def seed_difference(a: ArrayLike, b: ArrayLike, *, level: float = 0.95) -> Interval:
    """(point, low, high) of figures (S,) of A minus those of B, paired by seed alone: Student's t.

    For figures without values of rows. The bounds are infinite with one seed.
    """
    from scipy.stats import t

    each = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    if each.ndim != 1 or not len(each) or not np.isfinite(each).all():
        raise DataError(f"seeds need one finite figure each, got {each.tolist()}")
    point = float(each.mean())
    if len(each) == 1:
        return point, -math.inf, math.inf
    reach = float(t.ppf((1 + level) / 2, len(each) - 1)) * float(each.std(ddof=1))
    reach /= math.sqrt(len(each))
    return point, point - reach, point + reach


def _difference(sums: F64) -> F64:
    """Of sums (draws, 4, S) the difference of the two ratios, (draws, S)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        found: F64 = sums[:, 0] / sums[:, 1] - sums[:, 2] / sums[:, 3]
    return found


def _reach(each: F64, by_rows: float, rows: int, level: float) -> float:
    """t sqrt(V) of the differences (S,) of the seeds and the variance of their mean over rows."""
    from scipy.stats import t

    seeds = len(each)
    by_seeds = float(each.var(ddof=1)) / seeds if seeds > 1 else 0.0
    whole = by_seeds + by_rows
    if seeds == 1 or whole == 0:
        return 0.0
    freedom = whole**2 / (by_seeds**2 / (seeds - 1) + by_rows**2 / max(rows - 1, 1))
    return float(t.ppf((1 + level) / 2, freedom)) * math.sqrt(whole)


def _check(given: list[F64]) -> None:
    shapes = {x.shape for x in given}
    if len(shapes) != 1 or given[0].ndim != 2 or 0 in given[0].shape:
        raise DataError(
            "a crossed difference needs four tables of one shape (seeds, rows), got "
            f"{', '.join(str(x.shape) for x in given)}"
        )
    if not all(np.isfinite(x).all() for x in given):
        raise DataError("numerators and denominators must be finite; drop the rows without a value")
    if any(x.min() < 0 or (x.sum(axis=1) == 0).any() for x in (given[1], given[3])):
        raise DataError("denominators must be >= 0 and not all 0 for a seed")
