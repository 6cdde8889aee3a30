"""The group from which exchanges start: greedy on the semi-relaxed cost."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tamis.numerics import greedy
from tamis.numerics.exchange import Problem, lowest

F64 = NDArray[np.float64]
Rows = NDArray[np.int64]


def start(problem: Problem, k: int) -> Rows:
    """Greedy minimum of the semi-relaxed cost, then only rows that are nearest to some target.

    Picks go on past k until k rows serve a target. When fewer rows than k can (few targets,
    copies), the group is filled up by `fill`. Lazy; O(n m) to begin with.
    """
    total, largest = np.empty(len(problem.distance)), 0.0
    for block in problem.blocks():
        cost = problem.costs(block)
        total[block] = cost.sum(axis=1)
        largest = max(largest, float(np.abs(cost).max()))
    first = int(np.argmin(np.round(total, 12)))
    least = problem.costs(first)

    def gains(rows: list[int]) -> list[float]:
        gain: list[float] = (
            np.maximum(least - problem.costs(np.array(rows)), 0).sum(axis=1).tolist()
        )
        return gain

    def add(row: int) -> None:
        np.minimum(least, problem.costs(row), out=least)

    bounds = np.empty(len(total))
    for block in problem.blocks():
        bounds[block] = np.maximum(least - problem.costs(block), 0).sum(axis=1)
    others = np.delete(np.arange(len(total), dtype=np.int64), first)
    noise = 1e-12 * largest * len(least)
    order, _ = greedy.lazy(others, bounds[others], gains, add, len(others), batch=4, above=noise)
    order = np.concatenate([[first], order])
    return fill(problem, _serving(problem, order, k), k)


def _serving(problem: Problem, order: Rows, k: int) -> Rows:
    """The shortest prefix in which k rows are nearest to a target, reduced to these rows."""
    least = problem.costs(int(order[0]))
    owner = np.zeros(len(least), dtype=np.int64)
    for place, row in enumerate(order[1:].tolist(), start=1):
        if len(np.unique(owner)) == k:
            break
        cost = problem.costs(row)
        closer = cost < least
        owner[closer] = place
        least[closer] = cost[closer]
    serving = np.unique(owner)
    # With fewer than k all are kept: none of the rest would change the cost.
    if len(serving) < k:
        return order[:k]
    kept: Rows = order[serving]
    return kept


def fill(problem: Problem, rows: Rows, k: int) -> Rows:
    """Bring a group up to k rows, those with the smallest scores first, in small batches."""
    batch = math.ceil((k - len(rows)) / 20)
    while len(rows) < k:
        outside = np.setdiff1d(np.arange(len(problem.distance), dtype=np.int64), rows)
        w = problem.solve(rows).w
        best = lowest(problem, w, len(rows), outside, min(batch, k - len(rows)))
        rows = np.concatenate([rows, best]).astype(np.int64)
    return rows
