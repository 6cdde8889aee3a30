"""A signal as a histogram, kept rows against dropped ones."""

from __future__ import annotations

import numpy as np

from tamis import report as page

BINS = 24
LONG_TAIL = 20  # where the 99th percentile is as many medians, the axis is logarithmic


def histogram(signal: str, values: np.ndarray, kept: np.ndarray) -> page.Histogram:
    """Count kept and dropped values (n,) in bins from the 1st to the 99th percentile.

    What lies beyond is counted in the end bins; NaN and infinities are counted as missing.
    """
    known = np.isfinite(values)
    shown, kept = values[known], kept[known].astype(bool)
    edges = _edges(shown)
    clipped = np.clip(shown, edges[0], edges[-1])
    sides = {side: np.histogram(clipped[kept == side], edges)[0].tolist() for side in (True, False)}
    medians = {
        side: float(np.median(shown[kept == side])) if (kept == side).any() else None
        for side in (True, False)
    }
    return page.Histogram(
        signal,
        edges.tolist(),
        sides[True],
        sides[False],
        medians[True],
        medians[False],
        int((~known).sum()),
        float(shown[0]) if len(shown) and (shown == shown[0]).all() else None,
    )


def _edges(values: np.ndarray) -> np.ndarray:
    """Edges of the bins: one a number where there are few whole numbers, else of equal width, on a
    logarithmic axis where the tail is long."""
    if not len(values):
        return np.array([0.0, 1.0])
    low, high = np.percentile(values, (1, 99))
    first, last = np.floor(low), np.ceil(high)
    few = last - first < BINS and max(-low, high) < 2**31
    if few and np.array_equal(values, np.round(values)):
        return np.arange(first, last + 2) - 0.5
    if values.min() > 0 and high > LONG_TAIL * np.median(values):
        edges = np.geomspace(low, high, BINS + 1)
    else:
        edges = np.linspace(low, high, BINS + 1)
    edges = np.unique(edges)  # neighbouring floats may lie closer than a bin is wide
    if len(edges) == 1:
        width = abs(low) * 0.5 or 0.5
        return np.array([low - width, low + width])
    return edges
