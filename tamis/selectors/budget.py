"""Budgets in rows or in costs (tokens) around any method: never exceeded, few solves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from tamis.errors import DataError
from tamis.selectors.base import Pool, Selection, Selector

Ints = NDArray[np.int64]
Solve = Callable[[int], Selection]
_SOLVES = 6


@runtime_checkable
class Divides(Protocol):
    """A method that splits a budget by itself, whatever its unit is."""

    def divide(self, pool: Pool, costs: Ints | None, limit: int, *, seed: int) -> Selection:
        """A selection within `limit`: rows, or the sum of `costs`. Facts tell `solves`."""
        ...


def fit(selector: Selector, pool: Pool, costs: Ints | None, limit: int, *, seed: int) -> Selection:
    """The method's selection within `limit`: rows, or the sum of `costs` (n,) where given.

    A prefix method gives its longest prefix that fits. For others the number of rows is searched
    with at most six solves, each from the same seed; the largest one that fits is taken. If none
    fits, the smallest is cut from its end. A row that is shown several times costs as often. Facts
    tell `limit`, `spent`, `shortfall`, `solves`.
    """
    if limit < 0:
        raise DataError(f"a budget must be 0 or more, got {limit}")
    solves = 0

    def solve(k: int) -> Selection:
        nonlocal solves
        solves += 1
        return selector.select(pool, k, rng=np.random.default_rng(seed))

    costs = None if costs is None else _checked(costs, pool.n)
    if isinstance(selector, Divides):
        found = selector.divide(pool, costs, limit, seed=seed)
        solves = int(found.facts["solves"])
    elif costs is None:
        found = solve(min(limit, pool.n))
    else:
        search = _longest_prefix if selector.prefix else _largest
        found = search(solve, costs, limit)
    return _told(found, limit, spent(found, costs), solves)


def spent(found: Selection, costs: Ints | None) -> int:
    """What a selection takes of a budget: rows, or their costs, each as often as it is shown."""
    cost = np.ones(len(found.index), dtype=np.int64) if costs is None else costs[found.index]
    if "repeat" in found.rows:
        cost = cost * found.rows["repeat"][found.index]
    return int(cost.sum())


def _longest_prefix(solve: Solve, costs: Ints, limit: int) -> Selection:
    n = len(costs)
    k = _guess(costs, limit, 1.2)
    for attempt in range(_SOLVES - 1):
        if attempt == _SOLVES - 2:
            k = n
        found = solve(k)
        fits = _fitting(found, costs, limit)
        if fits < len(found.index):
            # Solved again at the exact size, so that the reasons of all other rows are right too.
            return solve(fits)
        if k >= n or len(found.index) < k:
            break
        k = min(n, 2 * k + 1)
    return found


def _largest(solve: Solve, costs: Ints, limit: int) -> Selection:
    """Secant search on k, kept between the largest k that fits and the smallest that does not."""
    n = len(costs)
    low, low_cost, high, high_cost = 0, 0, n + 1, int(costs.sum()) + 1
    best: Selection | None = None
    over: Selection | None = None
    k = _guess(costs, limit, 1.0)
    for _ in range(_SOLVES):
        found = solve(k)
        cost = spent(found, costs)
        if cost <= limit:
            if best is None or len(found.index) >= len(best.index):
                best = found
            low, low_cost = k, cost
            full = cost == limit and bool(costs.all())
            if full or k >= n or len(found.index) < k:
                break
        else:
            over, high, high_cost = found, k, cost
        if high - low <= 1:
            break
        share = (limit - low_cost) / max(1, high_cost - low_cost)
        k = min(max(low + int(share * (high - low)), low + 1), high - 1)
    if best is not None and (len(best.index) or over is None):
        return best
    return _cut(over, costs, limit) if over is not None else solve(0)


def _guess(costs: Ints, limit: int, margin: float) -> int:
    """How many rows of average cost fit, times `margin`."""
    if len(costs) == 0:
        return 0
    mean = max(float(costs.mean()), 1e-9)
    return int(min(len(costs), max(1, np.ceil(min(limit / mean, len(costs)) * margin))))


def _fitting(found: Selection, costs: Ints, limit: int) -> int:
    return int(np.searchsorted(np.cumsum(costs[found.index]), limit, side="right"))


def _cut(found: Selection, costs: Ints, limit: int) -> Selection:
    size = _fitting(found, costs, limit)
    dropped = found.index[size:]
    rows = dict(found.rows)
    if "reason" in rows:
        rows["reason"] = rows["reason"].copy()
        rows["reason"][dropped] = "over_budget"
    curves = {n: c[:size] if len(c) == len(found.index) else c for n, c in found.curves.items()}
    facts = {**found.facts, "cut_from": len(found.index)}
    return replace(
        found,
        index=found.index[:size],
        gain=found.gain[:size],
        rows=rows,
        curves=curves,
        facts=facts,
    )


def _told(found: Selection, limit: int, cost: int, solves: int) -> Selection:
    told = {"limit": limit, "spent": cost, "shortfall": limit - cost, "solves": solves}
    return replace(found, facts={**found.facts, **told})


def _checked(costs: Ints, n: int) -> Ints:
    given = np.asarray(costs)
    if given.shape != (n,) or given.dtype.kind not in "iu":
        raise DataError(f"costs must be {n} whole numbers, got {given.shape} of {given.dtype}")
    if n and given.min() < 0:
        raise DataError(f"costs must be 0 or more, got {int(given.min())}")
    return given.astype(np.int64)
