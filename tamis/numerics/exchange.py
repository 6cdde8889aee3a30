"""A group of rows close to a target: scores that prune exchanges, and bounds that spare solves."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tamis.numerics.blocked import rows_per_block
from tamis.numerics.transport import Plan, exact, solver

F64 = NDArray[np.float64]
Rows = NDArray[np.int64]
Pair = tuple[int, int]

# Cells of one block of costs: 2 MB, which stays in a core's cache.
_CELLS = 262_144
# Exact solves of up to so many cells take POT less than a millisecond.
_SMALL = 20_000
# The duals that rank exchanges are smoothed by such shares of the usual gap between the nearest
# and the middle row of a target: the next share where the last finds nothing better. Where one
# begins leads to other groups; small problems begin at each.
_SMOOTH = (0.2, 0.1, 0.05)
_BEGIN_SMALL = ((0.4, *_SMOOTH), _SMOOTH, _SMOOTH[1:], _SMOOTH[2:])


@dataclass(slots=True)
class Problem:
    """Distances (n, m) of candidates to equally weighted targets, and a bonus (n,) a candidate.

    The cost of a group S is OT(uniform on S, targets) with costs distance - bonus, which equals
    the transport of the distances less the mean bonus of S. Distances may be float32; costs are
    float64.
    """

    distance: NDArray[Any]
    bonus: F64
    solves: int = 0
    b: F64 = field(init=False)

    def __post_init__(self) -> None:
        m = self.distance.shape[1]
        self.b = np.full(m, 1 / m)

    def costs(self, rows: Rows | slice | int) -> F64:
        """Distance less bonus of some rows, (rows, m)."""
        cost: F64 = self.distance[rows] - self.bonus[rows][..., None]
        return cost

    def blocks(self) -> Iterator[slice]:
        """All rows, a block at a time."""
        step = rows_per_block(self.distance.shape[1], _CELLS)
        for start in range(0, len(self.distance), step):
            yield slice(start, start + step)

    def solve(self, rows: Rows) -> Plan:
        """The exact cost of a group and its duals."""
        self.solves += 1
        # The solver gets distances, which are not negative; the bonus is constant along a row.
        plan = exact(np.ascontiguousarray(self.distance[rows], dtype=np.float64), self.b)
        bonus = self.bonus[rows]
        return Plan(plan.value - float(bonus.mean()), plan.u - bonus, plan.w)

    def semi_relaxed(self, rows: Rows) -> float:
        """Mean over targets of the least cost in the group: never above the exact cost."""
        return float(self.costs(rows).min(axis=0).mean())


def scores(problem: Problem, rows: Rows, plan: Plan, *, official: bool = False) -> F64:
    """How much having each row in the group raises its cost, the other duals kept (n,).

    Row i: max over y of y/k + sum_j b_j min(d_ij - y, 0) with d_ij = C_ij - f_ij and f_ij the
    least C_sj - u_s over s in the group other than i; the maximum is at the ceil(m/k)-th smallest
    d_ij. `official` reproduces the authors' code: the ceil(m/k)-th largest, and i not left out.
    """
    score = np.empty(len(problem.distance))
    for block in problem.blocks():
        score[block] = _raised(problem.costs(block) - plan.w, len(rows), official)
    if not official:
        score[rows] = leaving(problem, rows, plan)
    return score


def leaving(problem: Problem, rows: Rows, plan: Plan) -> F64:
    """The scores of the group's own rows (k,)."""
    return _raised(problem.costs(rows) - without_each(problem, rows, plan), len(rows))


def lowest(problem: Problem, w: F64, k: int, rows: Rows, count: int) -> Rows:
    """The `count` of `rows` outside a group of k with the smallest scores, smallest first.

    A score is never below the least gap / k, which is cheaper and spares most rows the rest.
    """
    least = np.empty(len(problem.distance))
    for block in problem.blocks():
        least[block] = (problem.costs(block) - w).min(axis=1)
    least = least[rows] / k
    score = np.full(len(rows), np.inf)
    some = _first(least, 4 * count)
    score[some] = _raised(problem.costs(rows[some]) - w, k)
    enough = np.sort(score)[min(count, len(score)) - 1] + 1e-11
    more = np.flatnonzero((least <= enough) & np.isinf(score))
    for part in np.array_split(more, 1 + len(more) * len(w) // _CELLS):
        if len(part):
            score[part] = _raised(problem.costs(rows[part]) - w, k)
    return rows[_first(score, count)]


def _raised(gap: F64, k: int, official: bool = False) -> F64:
    """The maximum over y of y/k + mean of min(gap - y, 0) for each row; reorders `gap`."""
    m = gap.shape[1]
    rank = math.ceil(m / k)
    place = m - rank if official else rank - 1
    gap.partition(place, axis=1)
    level = gap[:, place]
    value: F64 = level / k + (gap[:, :place].sum(axis=1) - place * level) / m
    return value


def without_each(problem: Problem, rows: Rows, plan: Plan) -> F64:
    """f of the group without each of its rows, (k, m): the least C_sj - u_s of the others."""
    slack = problem.costs(rows) - plan.u[:, None]
    if len(rows) == 1:  # nobody else is there: the row's own
        return slack
    order = np.argpartition(slack, 1, axis=0)[:2]
    two = np.take_along_axis(slack, order, axis=0)
    first = np.where(two[0] <= two[1], order[0], order[1])
    low, high = two.min(axis=0), two.max(axis=0)
    f = np.broadcast_to(low, slack.shape).copy()
    f[first, np.arange(slack.shape[1])] = high
    return f


def lower_bounds(problem: Problem, rows: Rows, plan: Plan, inner: Rows, outer: Rows) -> F64:
    """For each position in the group and row outside it, a bound below the cost after their
    exchange: (len(inner), len(outer))."""
    k = len(rows)
    cost = problem.costs(outer)
    f = without_each(problem, rows, plan)[inner]
    bound = np.empty((len(inner), len(outer)))
    for at, position in enumerate(inner.tolist()):
        kept = (plan.u.sum() - plan.u[position]) / k
        bound[at] = kept + f[at].mean() + _raised(cost - f[at], k)
    return bound


def smoothed(problem: Problem, rows: Rows, share: float, w: F64 | None) -> tuple[F64, F64]:
    """Entropic duals (u, w) of a group, begun at `w`: they tell better what an exchange changes.

    The exact duals of equal weights are far from unique and solvers return extreme ones; the
    entropic ones lie amid them. Where the scalings leave the range of floats, zeros.
    """
    cost, k = problem.costs(rows), len(rows)
    least = cost.min(axis=0)
    epsilon = share * float((np.median(cost, axis=0) - least).mean()) or 1.0
    kernel = np.exp((least - cost) / epsilon)
    with np.errstate(all="ignore"):
        v = np.ones(len(least)) if w is None else np.exp((w - least) / epsilon)
        for _ in range(100 if w is None else 20):
            u = 1 / (k * (kernel @ v))
            v = 1 / (len(least) * (u @ kernel))
        duals = epsilon * np.log(u), epsilon * np.log(v) + least
    if not all(np.isfinite(dual).all() for dual in duals):
        return np.zeros(k), np.zeros(len(least))
    return duals


@dataclass(frozen=True, slots=True)
class Refined:
    """The group after exchanges, its plan, the cost after each step, and why it ended."""

    rows: Rows
    plan: Plan
    trace: list[float]
    stop: str


def refine(problem: Problem, rows: Rows, *, exchanges: int, cut: int, tries: int) -> Refined:
    """Exchange rows of the group for others while the exact cost falls, at most `exchanges` steps.

    Each step ranks pairs of the `cut` rows inside and the `cut` outside that the smoothed duals
    would rather exchange, skips pairs whose lower bound is not below the present cost, and
    solves at most `tries` times: first many pairs at once, then fewer, then one after another.
    The first that is better is taken. Where solves are small there are five times as many, and
    the best of several descents is taken.
    """
    small = solver() == "pot" and len(rows) * problem.distance.shape[1] <= _SMALL
    begin = problem.solve(rows)
    descents = [
        _descend(problem, rows, begin, shares, exchanges, cut, 5 * tries if small else tries)
        for shares in (_BEGIN_SMALL if small else (_SMOOTH,))
    ]
    return min(descents, key=lambda found: round(found.plan.value, 12))


def _descend(
    problem: Problem,
    rows: Rows,
    plan: Plan,
    shares: tuple[float, ...],
    exchanges: int,
    cut: int,
    tries: int,
) -> Refined:
    trace, w = [plan.value], None
    margin = 1e-12 * max(1.0, float(problem.distance.max()))
    failed: set[tuple[Pair, ...]] = set()
    while shares and len(trace) <= exchanges:
        u, w = smoothed(problem, rows, shares[0], w)
        pairs = _pairs(problem, rows, plan, (u, w), cut, margin)
        fresh = (trial for trial in _trials(pairs) if trial not in failed)
        for trial in itertools.islice(fresh, tries):
            changed = exchanged(rows, trial)
            other = problem.solve(changed)
            if other.value < plan.value - margin:
                rows, plan = changed, other
                trace.append(plan.value)
                failed.clear()
                break
            failed.add(trial)
        else:
            shares = shares[1:]
    return Refined(rows, plan, trace, "exchanges" if shares else "no_better_pair")


def search(problem: Problem, rows: Rows, *, exchanges: int, cut: int) -> Refined:
    """What the authors' code does: their scores and order of pairs, an exact solve for each."""
    plan = problem.solve(rows)
    trace = [plan.value]
    for _ in range(exchanges):
        score = scores(problem, rows, plan, official=True)
        outside = np.setdiff1d(np.arange(len(score), dtype=np.int64), rows)
        outer = outside[_first(score[outside], cut)]
        for i, o in itertools.product(_first(score[rows])[-cut:].tolist(), outer.tolist()):
            changed = exchanged(rows, ((i, o),))
            other = problem.solve(changed)
            if other.value < plan.value:
                rows, plan = changed, other
                trace.append(plan.value)
                break
        else:
            return Refined(rows, plan, trace, "no_better_pair")
    return Refined(rows, plan, trace, "exchanges")


def exchanged(rows: Rows, pairs: tuple[Pair, ...]) -> Rows:
    """The group after exchanges (position inside, row outside): new rows stand at the end."""
    places, others = zip(*pairs, strict=True)
    return np.concatenate([np.delete(rows, places), others]).astype(np.int64)


def _pairs(
    problem: Problem, rows: Rows, plan: Plan, duals: tuple[F64, F64], cut: int, margin: float
) -> list[tuple[Pair, float]]:
    """Pairs that may lower the cost, and what the duals expect of them, most promising first."""
    k = len(rows)
    exact = leaving(problem, rows, plan)
    leave = duals[0] / k
    outside = np.setdiff1d(np.arange(len(problem.distance), dtype=np.int64), rows)
    outer = np.union1d(*(lowest(problem, w, k, outside, cut) for w in (plan.w, duals[1])))
    inner = np.union1d(_first(-exact, cut), _first(-leave, cut))
    enter = _raised(problem.costs(outer) - duals[1], k)
    change = (enter - leave[inner][:, None]).ravel()
    bound = lower_bounds(problem, rows, plan, inner, outer).ravel()
    # Turn and turn about: neither rule is the better one everywhere.
    both = np.stack([_first(change), _first(bound)], axis=1).ravel()
    order = both[np.sort(np.unique(both, return_index=True)[1])]
    order = order[bound[order] < plan.value - margin]
    places, others = np.unravel_index(order, (len(inner), len(outer)))
    pairs = zip(inner[places].tolist(), outer[others].tolist(), strict=True)
    return list(zip(pairs, change[order].tolist(), strict=True))


def _first(values: F64, count: int | None = None) -> Rows:
    """The places of the smallest values, rising; equal but for rounding is equal."""
    return np.argsort(np.round(values, 12), kind="stable")[:count]


def _trials(pairs: list[tuple[Pair, float]]) -> Iterator[tuple[Pair, ...]]:
    """Exchanges to try together: pairs without a common row, all, half of them, ..., then one."""
    apart: list[Pair] = []
    used: set[int] = set()
    gone: set[int] = set()
    for (place, row), change in pairs:
        if change < 0 and place not in gone and row not in used:
            apart.append((place, row))
            gone.add(place)
            used.add(row)
    size = len(apart)
    while size > 1:
        yield tuple(apart[:size])
        size //= 2
    for pair, _ in pairs:
        yield (pair,)
