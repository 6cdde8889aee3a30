"""Rows as points on a plane, so that neighbours stay neighbours."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tamis.numerics.blocked import CELLS, rows_per_block, unit_rows
from tamis.numerics.neighbours import most_similar

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Rows = NDArray[np.int64]

NEIGHBOURS = 12  # edges of each row
_ROUNDS = 250
_APART = 8  # rows that each row is held away from in a round
_START = 10.0  # standard deviation of the places at the start
_LONGEST = 4.0  # a row moves no farther in a round


def principal(x: F32) -> tuple[F64, float]:
    """The two principal components of the rows (n, 2), and the share of the variance they hold.

    From the eigenvectors of the covariance (d, d), so O(n d^2 + d^3) and exact; signs are such that
    the largest entry of an axis is positive. Rows that are all equal lie at 0.
    """
    mean = x.mean(axis=0, dtype=np.float64)
    step = rows_per_block(x.shape[1])
    spread = np.zeros((x.shape[1], x.shape[1]))
    for start in range(0, len(x), step):
        part = x[start : start + step] - mean
        spread += part.T @ part
    value, vector = np.linalg.eigh(spread)
    axes = vector[:, ::-1][:, :2]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    axes = np.pad(axes, ((0, 0), (0, 2 - axes.shape[1])))
    places = np.concatenate(
        [(x[a : a + step] - mean) @ axes for a in range(0, len(x), step)] or [np.zeros((0, 2))]
    )
    total = value.sum()
    return places, float(value[::-1][:2].sum() / total) if total > 0 else 1.0


def plane(x: F32, *, rng: np.random.Generator) -> tuple[F64, float]:
    """Places (n, 2) of the rows of `x` (n, d), and how well they keep neighbours: the mean share of
    a row's 12 nearest rows by cosine that are among its 12 nearest on the plane.

    Starts from the principal components. In each round every row is drawn to its neighbours and
    pushed from 8 random rows, with the forces of UMAP (McInnes et al., 2018, arXiv 1802.03426) for
    a = b = 1; the steps shrink to nothing. Differs: all edges weigh the same and all rows move at
    once, so the same seed gives the same places on one machine. Distances between groups mean
    little. O(n^2 d) for the neighbours, then O(n) a round.
    """
    n = len(x)
    start, _ = principal(unit_rows(x))
    if n <= NEIGHBOURS + 1:
        return start, 1.0
    near = most_similar(x, NEIGHBOURS + 1)[0]
    edges = _edges(near)
    places = start / (start.std() or 1.0) * _START
    # Rows of equal vectors must not stand on one spot, where no force can part them.
    places += rng.normal(scale=1e-3, size=places.shape)
    for turn in range(_ROUNDS):
        move = _drawn(places, edges) + _pushed(places, rng)
        length = np.maximum(np.linalg.norm(move, axis=1, keepdims=True) / _LONGEST, 1.0)
        places += (1 - turn / _ROUNDS) * move / length
    return places, kept_neighbours(near, places)


def kept_neighbours(near: Rows, places: F64) -> float:
    """The mean share of each row's neighbours (n, m; itself among them) that are its neighbours on
    the plane, itself left out on both sides. Of at most 2,000 rows, evenly drawn."""
    some = np.unique(np.linspace(0, len(near) - 1, 2000).astype(np.int64))
    m = near.shape[1] - 1
    held = []
    step = rows_per_block(len(places), CELLS)
    for start in range(0, len(some), step):
        rows = some[start : start + step]
        far = ((places[rows, None, :] - places[None]) ** 2).sum(axis=2)
        far[np.arange(len(rows)), rows] = np.inf
        here = np.argpartition(far, m - 1, axis=1)[:, :m]
        same = (near[rows][:, :, None] == here[:, None, :]).any(axis=1)
        held.append(same.mean(axis=1))
    return float(np.concatenate(held).mean())


def _edges(near: Rows) -> tuple[Rows, Rows]:
    """Pairs of neighbours, each both ways, none with itself."""
    row = np.repeat(np.arange(len(near)), near.shape[1])
    other = near.ravel()
    apart = row != other
    row, other = row[apart], other[apart]
    pairs = np.unique(np.concatenate([row * len(near) + other, other * len(near) + row]))
    first, second = np.divmod(pairs, len(near))
    return first, second


def _drawn(places: F64, edges: tuple[Rows, Rows]) -> F64:
    first, second = edges
    apart = places[second] - places[first]
    force = apart * (2 / (1 + (apart**2).sum(axis=1)))[:, None]
    return _summed(first, force, len(places)) / NEIGHBOURS


def _pushed(places: F64, rng: np.random.Generator) -> F64:
    n = len(places)
    other = rng.integers(0, n, size=(n, _APART))
    apart = places[:, None, :] - places[other]
    square = (apart**2).sum(axis=2)
    force = apart * (2 / ((0.01 + square) * (1 + square)))[:, :, None]
    total: F64 = force.sum(axis=1)
    return total


def _summed(rows: Rows, values: F64, n: int) -> F64:
    sums = [np.bincount(rows, values[:, axis], minlength=n) for axis in range(2)]
    return np.stack(sums, axis=1)
