"""Stratified draws over the range of a score, and the choice of a score by its spread."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
Rows = NDArray[np.int64]


def entropy(score: F64, *, official: bool = False) -> float:
    """Entropy in bits of the histogram of the standardised score: 49 bins over +-4 deviations.

    NaN for a constant score. Values beyond the range count in the outermost bins. `official`:
    the authors' code, whose bins are spread over +-4 sigma of the raw score while the values are
    standardised, so that the result hangs on the unit of the score.
    """
    sigma = float(score.std()) if len(score) else 0.0
    if not sigma > 1e-12 * max(1.0, float(np.abs(score).max(initial=0.0))):
        return math.nan
    z = (score - score.mean()) / sigma
    reach = 4 * sigma if official else 4.0
    edges = np.linspace(-reach, reach, 50)
    if not official:
        z = np.clip(z, -4, 4)
    # Bins (low, high]; the clipped lowest values belong to the first one.
    place = np.searchsorted(edges, z, side="left") - 1
    if not official:
        place = np.maximum(place, 0)
    count = np.bincount(place[(place >= 0) & (place < 49)], minlength=49).astype(np.float64)
    # As in the code: 50 entries, empty ones at machine precision.
    share = np.concatenate([[0.0], count / max(1.0, count.sum())])
    share[share == 0] = np.finfo(np.float64).eps
    return float(-(share * np.log2(share)).sum())


def official_budget(sizes: Rows, total: int) -> Rows:
    """The authors' split of a budget over clusters: rounded up at each step, so it overshoots.

    Raises `ZeroDivisionError` where theirs does: when the largest cluster is itself too small.
    """
    count = len(sizes)
    given = np.full(count, math.ceil(total / count), dtype=np.int64)
    if sizes.min() * count >= total:
        return given
    each = math.ceil(total / count)
    for place, cluster in enumerate(np.argsort(sizes, kind="stable")):
        if sizes[cluster] < each:
            given[cluster] = sizes[cluster]
            each += math.ceil((each - int(sizes[cluster])) / (count - place - 1))
        else:
            given[cluster] = each
    return given


def official_spread_budget(sizes: Rows, spread: F64, total: int) -> Rows:
    """The authors' split by spread: truncated shares, what small clusters cannot give moves to the
    larger ones, an equal part each. At most `total` in all."""
    whole = spread.sum()
    given = np.zeros(len(sizes), dtype=np.int64)
    if whole > 0:
        given = (total * spread / whole).astype(np.int64)
    surplus = 0
    for place, cluster in enumerate(np.argsort(sizes, kind="stable")):
        extra = surplus // (len(sizes) - place)
        surplus -= extra
        given[cluster] += extra
        over = max(0, int(given[cluster] - sizes[cluster]))
        given[cluster] -= over
        surplus += over
    return given


def official_edges(score: F64, bins: int = 50) -> F64:
    """The authors' bin edges, from the 95th percentile downwards by repeated subtraction."""
    ordered = np.sort(score)
    low, high = ordered[int(0.05 * len(score))], ordered[int(0.95 * len(score))]
    steps = np.full(bins + 1, -(high - low) / bins)
    steps[0] = high
    edges: F64 = np.cumsum(steps)
    return edges


def official_draw(score: F64, budget: int, rng: np.random.Generator, bins: int = 50) -> Rows:
    """The authors' coverage sampling: misses its budget in both directions, drops both tails."""
    edges = official_edges(score, bins)
    each, left = math.ceil(budget / bins), budget
    taken = [np.empty(0, dtype=np.int64)]
    for place in range(bins):
        inside = np.flatnonzero((score > edges[place + 1]) & (score <= edges[place]))
        if len(inside) < each:
            taken.append(inside)
            left -= len(inside)
            if place < bins - 1:
                each = math.ceil(left / (bins - place - 1))
        else:
            taken.append(rng.choice(inside, each, replace=False))
            left -= each
    return np.concatenate(taken)


def draw(
    score: F64, budget: int, rng: np.random.Generator, *, bins: int = 50, trim: float = 0.05
) -> Rows:
    """`budget` rows spread evenly over the range of a score between its `trim` quantiles.

    Bins of equal width, fewer when there are fewer distinct values; from the emptiest on each
    gives an equal part of what is left, the remainder falls to the fullest. When the bins hold
    too few, rows of the tails nearest to the range fill up. Exactly min(budget, n) rows.
    """
    n = len(score)
    if budget >= n:
        return np.arange(n, dtype=np.int64)
    ordered = np.sort(score)
    low, high = ordered[int(trim * (n - 1))], ordered[math.ceil((1 - trim) * (n - 1))]
    inside = np.flatnonzero((score >= low) & (score <= high))
    count = max(1, min(bins, len(np.unique(score[inside]))))
    edges = np.linspace(low, high, count + 1)
    place = np.clip(np.searchsorted(edges, score[inside], side="left") - 1, 0, count - 1)
    sizes = np.bincount(place, minlength=count)
    order = np.argsort(sizes, kind="stable")
    left = min(budget, len(inside))
    taken = [np.empty(0, dtype=np.int64)]
    for position, group in enumerate(order.tolist()):
        share = min(int(sizes[group]), left // (count - position))
        taken.append(rng.choice(inside[place == group], share, replace=False))
        left -= share
    rows = np.concatenate(taken)
    return np.concatenate([rows, _tails(score, rows, low, high, budget - len(rows), rng)])


def _tails(
    score: F64, rows: Rows, low: float, high: float, missing: int, rng: np.random.Generator
) -> Rows:
    if missing <= 0:
        return np.empty(0, dtype=np.int64)
    rest = np.setdiff1d(np.arange(len(score), dtype=np.int64), rows)
    away = np.maximum(np.maximum(low - score[rest], score[rest] - high), 0)
    # Equal distances are settled by the generator, not by the order of the pool.
    return rest[np.lexsort((rng.random(len(rest)), away))[:missing]]
