"""k-means behind one function, on numpy, torch or faiss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tamis.errors import DataError, require
from tamis.numerics.blocked import nearest_index, square_distances, squares
from tamis.numerics.device import resolve
from tamis.numerics.threads import spread

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Rows = NDArray[np.int64]
Engine = Literal["numpy", "torch", "faiss"]
Assign = Callable[[F32, F32, F64], Rows]

# k-means++ looks at this many rows a centre: enough for good starts, cheap at any pool size.
_SAMPLE = 16


@dataclass(frozen=True, slots=True)
class Clusters:
    """Labels 0..K-1 (none empty), centres (K, d), the sum of squared distances, what ran."""

    labels: Rows
    centres: F32
    inertia: float
    iterations: int
    engine: str

    @property
    def sizes(self) -> Rows:
        """Rows of each cluster."""
        return np.bincount(self.labels, minlength=len(self.centres)).astype(np.int64)


def cluster(
    x: F32,
    k: int,
    *,
    rng: np.random.Generator,
    iterations: int = 50,
    restarts: int = 1,
    tolerance: float = 1e-4,
    engine: Engine = "numpy",
    device: str = "auto",
    block: int | None = None,
) -> Clusters:
    """Lloyd's k-means from k-means++ starts on a sample; the best of `restarts`.

    `x` (n, d) finite. Stops when the sum of squared distances falls by less than `tolerance`
    (relative). Empty clusters are dropped and the labels closed up, so fewer than `k` may come
    back; at `k >= n` the number of distinct rows is the limit. With `numpy`, distances are
    rechecked in float64 and means summed in float64 in row order: the same seed gives the same
    labels whatever the block size or thread count. `torch` does the distances on `device`;
    `faiss` runs its own iterations, all of them, from the same starts. O(n k d) an iteration.
    """
    if len(x) == 0:
        raise DataError("k-means needs at least one row, got none")
    if k >= len(x):
        k = min(k, len(np.unique(x, axis=0)))
    k = max(1, k)
    where: str = engine
    if engine == "torch":
        device = resolve(device)
        where = f"torch on {device}"
    assign = _torch_assign(device) if engine == "torch" else _numpy_assign(block)
    best: Clusters | None = None
    for _ in range(max(1, restarts)):
        starts = plus_plus(x, k, rng)
        if engine == "faiss":
            found = _faiss(x, starts, iterations)
        else:
            found = _lloyd(x, starts, assign, iterations, tolerance)
        if best is None or found.inertia < best.inertia:
            best = replace(found, engine=found.engine or where)
    if best is None:
        raise DataError("k-means found no solution")
    return best


def means(x: F32, labels: Rows, k: int) -> tuple[F64, Rows]:
    """Mean of each cluster in float64 (zeros where empty), and the sizes."""
    sizes = np.bincount(labels, minlength=k).astype(np.int64)
    order = np.argsort(labels, kind="stable")
    ends = np.cumsum(sizes)
    total = np.zeros((k, x.shape[1]))

    def one(cluster: int) -> None:
        end = int(ends[cluster])
        for first in range(end - int(sizes[cluster]), end, 65_536):
            rows = order[first : min(first + 65_536, end)]
            total[cluster] += x.take(rows, axis=0).sum(axis=0, dtype=np.float64)

    spread(one, range(k))
    return total / np.maximum(sizes, 1)[:, None], sizes


def plus_plus(x: F32, k: int, rng: np.random.Generator) -> F32:
    """k-means++ centres (Arthur and Vassilvitskii 2007) from a random sample of 16 k rows.

    Fewer than `k` when the sample has fewer distinct rows.
    """
    size = min(len(x), max(4096, _SAMPLE * k))
    rows = np.arange(len(x)) if size == len(x) else np.sort(rng.choice(len(x), size, replace=False))
    sample = x[rows].astype(np.float64)
    squares = np.einsum("ij,ij->i", sample, sample)
    chosen = [int(rng.integers(size))]
    distance = np.full(size, np.inf)
    while True:
        last = chosen[-1]
        new = squares - 2 * (sample @ sample[last]) + squares[last]
        # Rounding leaves about 1e-16 of the squares on copies of a centre; that is zero.
        new[new <= 1e-12 * (squares + squares[last])] = 0.0
        np.minimum(distance, new, out=distance)
        total = np.cumsum(distance)
        if len(chosen) == k or total[-1] <= 0:
            break
        at = np.searchsorted(total, rng.random() * total[-1], side="right")
        chosen.append(int(min(at, size - 1)))
    starts: F32 = x[rows[np.asarray(chosen)]]
    return starts


def _lloyd(x: F32, centres: F32, assign: Assign, iterations: int, tolerance: float) -> Clusters:
    square = squares(x)
    whole, before, steps = float(square.sum()), np.inf, 0
    labels = assign(x, centres, square)
    while steps < iterations:
        mean, sizes = means(x, labels, len(centres))
        # About their means: no pass over the rows.
        inertia = whole - float(sizes @ np.einsum("ij,ij->i", mean, mean))
        if inertia >= before * (1 - tolerance) or inertia <= 1e-12 * whole:
            break
        before = inertia
        # An empty cluster keeps its place: it may win rows back.
        centres = np.where(sizes[:, None] > 0, mean, centres).astype(np.float32)
        labels = assign(x, centres, square)
        steps += 1
    inertia = float(square_distances(x, centres, labels).sum())
    return _compact(labels, centres, inertia, steps)


def _compact(labels: Rows, centres: F32, inertia: float, steps: int, engine: str = "") -> Clusters:
    used, closed = np.unique(labels, return_inverse=True)
    return Clusters(closed.astype(np.int64), centres[used], inertia, steps, engine)


def _numpy_assign(block: int | None) -> Assign:
    return lambda x, centres, square: nearest_index(x, centres, square, block=block)


def _torch_assign(device: str) -> Assign:
    """Nearest centres on a torch device, in full float32; near ties follow the device."""
    import torch

    def assign(x: F32, centres: F32, square: F64) -> Rows:
        c = torch.from_numpy(np.ascontiguousarray(centres)).to(device)
        half = (c.double() ** 2).sum(1).mul(0.5).float()
        labels = np.empty(len(x), dtype=np.int64)
        for start in range(0, len(x), 65_536):
            part = torch.from_numpy(np.ascontiguousarray(x[start : start + 65_536])).to(device)
            labels[start : start + 65_536] = (part @ c.T - half).argmax(1).cpu().numpy()
        return labels

    return assign


def _faiss(x: F32, starts: F32, iterations: int) -> Clusters:
    require("faiss", "cpu", "k-means with engine faiss")
    import faiss

    x = np.ascontiguousarray(x)
    k = len(starts)
    solver = faiss.Kmeans(
        x.shape[1],
        k,
        niter=iterations,
        # All rows, not the 256 a centre that faiss samples by default.
        max_points_per_centroid=max(256, -(-len(x) // k)),
        min_points_per_centroid=1,
    )
    solver.train(x, init_centroids=np.ascontiguousarray(starts))
    distance, labels = solver.index.search(x, 1)
    centres: F32 = np.asarray(solver.centroids, dtype=np.float32)
    inertia = float(distance.astype(np.float64).sum())
    engine = f"faiss {faiss.__version__}"
    return _compact(labels[:, 0].astype(np.int64), centres, inertia, iterations, engine)
