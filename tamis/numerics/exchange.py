"""A group of rows close to a target: scores that prune exchanges, and bounds that spare solves."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tamis.numerics import greedy
from tamis.numerics.transport import Plan, exact

F64 = NDArray[np.float64]
Rows = NDArray[np.int64]


@dataclass(slots=True)
class Problem:
    """Distances (n, m) of candidates to equally weighted targets, and a bonus (n,) a candidate.

    The cost of a group S is OT(uniform on S, targets) with costs distance - bonus, which equals
    the transport of the distances less the mean bonus of S.
    """

    distance: F64
    bonus: F64
    solves: int = 0
    b: F64 = field(init=False)
    cost: F64 = field(init=False)

    def __post_init__(self) -> None:
        m = self.distance.shape[1]
        self.b = np.full(m, 1 / m)
        self.cost = self.distance - self.bonus[:, None]

    def solve(self, rows: Rows) -> Plan:
        """The exact cost of a group and its duals."""
        self.solves += 1
        # The solver gets distances, which are not negative; the bonus is constant along a row.
        plan = exact(np.ascontiguousarray(self.distance[rows]), self.b)
        bonus = self.bonus[rows]
        return Plan(plan.value - float(bonus.mean()), plan.u - bonus, plan.w)

    def semi_relaxed(self, rows: Rows) -> float:
        """Mean over targets of the least cost in the group: never above the exact cost."""
        return float(self.cost[rows].min(axis=0).mean())


def start(problem: Problem, k: int) -> Rows:
    """Greedy minimum of the semi-relaxed cost, then only rows that are nearest to some target.

    Picks go on past k until k rows serve a target. When fewer rows than k can (few targets,
    copies), the group is filled up by `fill`. Lazy; O(n m) to begin with.
    """
    cost = problem.cost
    first = int(np.argmin(np.round(cost.sum(axis=1), 12)))
    least = cost[first].copy()

    def gains(rows: list[int]) -> list[float]:
        gain: list[float] = np.maximum(least - cost[rows], 0).sum(axis=1).tolist()
        return gain

    def add(row: int) -> None:
        np.minimum(least, cost[row], out=least)

    others = np.delete(np.arange(len(cost), dtype=np.int64), first)
    noise = 1e-12 * float(np.abs(cost).max()) * cost.shape[1]
    order, _ = greedy.lazy(
        others,
        [gain for row in others.tolist() for gain in gains([row])],
        gains,
        add,
        len(others),
        batch=4,
        above=noise,
    )
    order = np.concatenate([[first], order])
    return fill(problem, _serving(cost, order, k), k)


def _serving(cost: F64, order: Rows, k: int) -> Rows:
    """The shortest prefix in which k rows are nearest to a target, reduced to these rows."""
    owner = np.zeros(cost.shape[1], dtype=np.int64)
    least = cost[order[0]].copy()
    for place, row in enumerate(order[1:].tolist(), start=1):
        if len(np.unique(owner)) == k:
            break
        closer = cost[row] < least
        owner[closer] = place
        least[closer] = cost[row][closer]
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
        score = scores(problem, rows, problem.solve(rows))
        score[rows] = np.inf
        best = np.argsort(np.round(score, 12), kind="stable")[: min(batch, k - len(rows))]
        rows = np.concatenate([rows, best]).astype(np.int64)
    return rows


def scores(problem: Problem, rows: Rows, plan: Plan, *, official: bool = False) -> F64:
    """How much having each row in the group raises its cost, the other duals kept (n,).

    Row i: max over y of y/k + sum_j b_j min(d_ij - y, 0) with d_ij = C_ij - f_ij and f_ij the
    least C_sj - u_s over s in the group other than i; the maximum is at the ceil(m/k)-th smallest
    d_ij. `official` reproduces the authors' code: the ceil(m/k)-th largest, and i not left out.
    """
    cost, m = problem.cost, problem.distance.shape[1]
    rank = math.ceil(m / len(rows))
    gap = cost - plan.w
    if not official and len(rows) > 1:
        gap[rows] = cost[rows] - without_each(problem, rows, plan)
    place = m - rank if official else rank - 1
    level = np.partition(gap, place, axis=1)[:, place]
    below = np.minimum(gap - level[:, None], 0).sum(axis=1) / m
    value: F64 = level / len(rows) + below
    return value


def without_each(problem: Problem, rows: Rows, plan: Plan) -> F64:
    """f of the group without each of its rows, (k, m): the least C_sj - u_s of the others."""
    slack = problem.cost[rows] - plan.u[:, None]
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
    k, m = len(rows), problem.distance.shape[1]
    rank = math.ceil(m / k)
    cost = problem.cost[outer]
    f = without_each(problem, rows, plan)[inner]
    bound = np.empty((len(inner), len(outer)))
    for at, position in enumerate(inner.tolist()):
        gap = cost - f[at]
        level = np.partition(gap, rank - 1, axis=1)[:, rank - 1]
        gain = np.minimum(gap - level[:, None], 0).sum(axis=1) / m
        kept = (plan.u.sum() - plan.u[position]) / k
        bound[at] = kept + level / k + gain + f[at].mean()
    return bound


@dataclass(frozen=True, slots=True)
class Refined:
    """The group after exchanges, its plan, the cost after each, and why it ended."""

    rows: Rows
    plan: Plan
    trace: list[float]
    stop: str


def refine(
    problem: Problem,
    rows: Rows,
    *,
    exchanges: int,
    cut: int,
    tries: int,
    official: bool = False,
) -> Refined:
    """Exchange a row of the group for one outside while the exact cost falls.

    Each round looks at the `cut` rows inside with the largest score and the `cut` outside with
    the smallest, skips pairs whose lower bound is not below the present cost, and solves the
    others by rising bound, at most `tries`; the first that is better is taken. `official` keeps
    the authors' scores and order of pairs, without bounds.
    """
    plan = problem.solve(rows)
    trace = [plan.value]
    margin = 1e-12 * max(1.0, float(np.abs(problem.distance).max()))
    stop = "exchanges"
    for _ in range(exchanges):
        found = None
        for i, o in _pairs(problem, rows, plan, cut, tries, margin, official=official):
            changed = np.concatenate([np.delete(rows, i), [o]]).astype(np.int64)
            other = problem.solve(changed)
            if other.value < plan.value - margin:
                found = changed, other
                break
        if found is None:
            stop = "no_better_pair"
            break
        rows, plan = found
        trace.append(plan.value)
    return Refined(rows, plan, trace, stop)


def _pairs(
    problem: Problem,
    rows: Rows,
    plan: Plan,
    cut: int,
    tries: int,
    margin: float,
    *,
    official: bool,
) -> list[tuple[int, int]]:
    """(position inside, row outside), most promising first."""
    score = scores(problem, rows, plan, official=official)
    outside = np.setdiff1d(np.arange(len(score), dtype=np.int64), rows)
    outer = outside[np.argsort(np.round(score[outside], 12), kind="stable")[:cut]]
    inside = np.argsort(np.round(score[rows], 12), kind="stable")
    if official:
        return [(int(i), int(o)) for i in inside[-cut:] for o in outer]
    inner = inside[::-1][:cut].astype(np.int64)
    bound = lower_bounds(problem, rows, plan, inner, outer)
    order = np.argsort(np.round(bound, 12), axis=None, kind="stable")
    order = order[bound.ravel()[order] < plan.value - margin][:tries]
    return [(int(inner[p // len(outer)]), int(outer[p % len(outer)])) for p in order.tolist()]
