"""Split a budget over groups, exactly."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tamis.errors import RecipeError

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def allocate(
    sizes: ArrayLike,
    k: int,
    weights: ArrayLike | None = None,
    floors: ArrayLike | None = None,
    caps: ArrayLike | None = None,
) -> Ints:
    """Give each group a whole number of rows; the sum is exactly `min(k, what fits)`.

    `sizes` (g,) is what each group holds, `weights` (g,) its share (default: its size), `floors`
    and `caps` (g,) bounds; a floor or cap above the size means the size. Shares follow the
    weights; a group whose share leaves its bounds stays at the bound and the rest is shared
    again. Fractions go to the largest remainders (rounded to 12 decimals, ties to the lower
    group). Groups of weight 0 get their floors, and equal shares once all others are full.

    Raises `RecipeError` for negative or non-finite numbers, and when the floors need more than
    `k`. Cost O(g^2) at worst, usually a few passes over the groups.
    """
    held = _counts(sizes, "sizes")
    cap = held if caps is None else np.minimum(held, _counts(caps, "caps", len(held)))
    low = np.zeros_like(held)
    if floors is not None:
        low = np.minimum(_counts(floors, "floors", len(held)), cap)
    share = held.astype(np.float64) if weights is None else _weights(weights, len(held))
    if k < 0:
        raise RecipeError(f"a budget of {k} rows was given; it must be 0 or more")
    if low.sum() > k:
        raise RecipeError(
            f"the floors need {int(low.sum()):,} and the budget is {k:,}: "
            "raise the budget or lower the floors"
        )
    given = low.copy()
    left = min(int(k), int(cap.sum()))
    positive = share > 0
    left -= int(low[~positive].sum())
    given[positive] = _bounded(share[positive], left, low[positive], cap[positive])
    left -= int(given[positive].sum())
    rest = ~positive
    if left > 0 and rest.any():
        total = left + int(low[rest].sum())
        given[rest] = _bounded(np.ones(int(rest.sum())), total, low[rest], cap[rest])
    return given


def _bounded(share: Floats, total: int, low: Ints, cap: Ints) -> Ints:
    """Split `total` by `share` (all > 0) within [low, cap]; less than `total` if all get full."""
    given = low.copy()
    active = cap > low
    left = float(total - low[~active].sum())
    while active.any():
        rows = np.flatnonzero(active)
        # Scaled first, so that tiny or huge weights neither underflow nor overflow.
        part = share[rows] / share[rows].max()
        ideal = left * part / part.sum()
        over = ideal >= cap[rows]
        under = ideal <= low[rows]
        surplus = float((ideal - cap[rows])[over].sum())
        deficit = float((low[rows] - ideal)[under].sum())
        if over.any() and surplus >= deficit:
            fixed, value = rows[over], cap[rows[over]]
        elif under.any():
            fixed, value = rows[under], low[rows[under]]
        else:
            given[rows] = _largest_remainder(ideal, int(left))
            break
        given[fixed] = value
        active[fixed] = False
        left -= float(value.sum())
    return given


def _largest_remainder(ideal: Floats, total: int) -> Ints:
    # A share that is whole but for rounding noise counts as whole.
    whole = np.floor(np.round(ideal, 12)).astype(np.int64)
    fraction = np.round(ideal - whole, 12)
    missing = total - int(whole.sum())
    whole[np.argsort(-fraction, kind="stable")[:missing]] += 1
    return whole


def _counts(values: ArrayLike, what: str, size: int | None = None) -> Ints:
    given = np.asarray(values)
    if given.size == 0 and size in (None, 0):
        return np.zeros(0, dtype=np.int64)
    whole = given.ndim == 1 and (given.dtype.kind in "iu" or bool(np.all(given == given // 1)))
    if not whole or (size is not None and len(given) != size) or bool((given < 0).any()):
        expected = "" if size is None else f" of length {size}"
        raise RecipeError(f"{what} must be whole numbers >= 0{expected}, got {given!r}")
    return given.astype(np.int64)


def _weights(values: ArrayLike, size: int) -> Floats:
    given = np.asarray(values, dtype=np.float64)
    if given.shape != (size,) or not np.isfinite(given).all() or bool((given < 0).any()):
        raise RecipeError(f"weights must be {size} finite numbers >= 0, got {given!r}")
    return given
