"""How well separated clusters are, and which number of clusters to take."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tamis.errors import DataError
from tamis.numerics.blocked import rows_per_block
from tamis.numerics.kmeans import means

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Rows = NDArray[np.int64]


def silhouette(x: F32, labels: Rows) -> float:
    """Mean silhouette (Rousseeuw 1987) by Euclidean distance: exact, O(n^2 d) time, one block.

    Single-member clusters count 0. Raises `DataError` unless there are 2 to n - 1 clusters.
    """
    wide, labels, k = _checked(x, labels)
    sizes = np.bincount(labels, minlength=k)
    member = np.eye(k)[labels]
    squares = np.einsum("ij,ij->i", wide, wide)
    total = 0.0
    step = rows_per_block(len(wide))
    for start in range(0, len(wide), step):
        rows = np.arange(start, min(start + step, len(wide)))
        square = squares[rows, None] - 2 * wide[rows] @ wide.T + squares
        sums = np.sqrt(np.maximum(square, 0)) @ member
        own = labels[rows]
        here = np.arange(len(rows))
        inner = sums[here, own] / np.maximum(sizes[own] - 1, 1)
        sums /= sizes
        sums[here, own] = np.inf
        total += _sum(inner, sums.min(axis=1), sizes[own])
    return total / len(wide)


def simplified_silhouette(x: F32, labels: Rows) -> float:
    """The same with the distance to a cluster taken to its mean: O(n K d), for large pools."""
    wide, labels, k = _checked(x, labels)
    centres, sizes = means(x, labels, k)
    squares = np.einsum("ij,ij->i", centres, centres)
    total = 0.0
    step = rows_per_block(k)
    for start in range(0, len(wide), step):
        part = wide[start : start + step]
        own = labels[start : start + step]
        square = np.einsum("ij,ij->i", part, part)[:, None] - 2 * part @ centres.T + squares
        gap = np.sqrt(np.maximum(square, 0))
        here = np.arange(len(part))
        inner = gap[here, own]
        gap[here, own] = np.inf
        total += _sum(inner, gap.min(axis=1), sizes[own])
    return total / len(wide)


def inertia(x: F32, labels: Rows) -> float:
    """Sum of squared distances to the own cluster's mean."""
    centres, _ = means(x, labels, int(labels.max()) + 1)
    gap = x.astype(np.float64) - centres[labels]
    return float(np.einsum("ij,ij->", gap, gap))


def elbow(ks: ArrayLike, inertias: ArrayLike) -> int:
    """The K whose inertia lies farthest below the straight line from the first to the last K.

    Both axes are scaled to [0, 1], K on a logarithmic scale; ties go to the smaller K.
    """
    k, y = np.log(np.asarray(ks, dtype=np.float64)), np.asarray(inertias, dtype=np.float64)
    if len(k) < 3 or k[-1] <= k[0] or y[0] <= y[-1]:
        return int(np.asarray(ks)[0])
    line = 1 - (k - k[0]) / (k[-1] - k[0])
    depth = line - (y - y[-1]) / (y[0] - y[-1])
    return int(np.asarray(ks)[depth.argmax()])


def _sum(inner: F64, outer: F64, sizes: Rows) -> float:
    widest = np.maximum(inner, outer)
    value = np.where(widest > 0, (outer - inner) / np.where(widest > 0, widest, 1), 0.0)
    return float(value[sizes > 1].sum())


def _checked(x: F32, labels: Rows) -> tuple[F64, Rows, int]:
    used, closed = np.unique(labels, return_inverse=True)
    if len(labels) != len(x) or not 2 <= len(used) < len(x):
        raise DataError(
            f"a silhouette needs 2 to n - 1 clusters over n rows, "
            f"got {len(used)} clusters, {len(labels)} labels, {len(x)} rows"
        )
    return x.astype(np.float64), closed.astype(np.int64), len(used)
