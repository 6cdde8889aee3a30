"""Linear regressions in float64: least squares, fixed effects, ridge across folds, instruments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

F64 = NDArray[np.float64]
Ints = NDArray[np.int64]
# Rows of a block of the triangular reduction.
BLOCK = 65_536
SWEEPS = 1000


@dataclass(frozen=True, slots=True)
class Linear:
    """A fitted line: `slopes` (p,) and `intercept` in the units given, the `rank` of [1, x], and
    whether it is a ridge because there were too few rows."""

    intercept: float
    slopes: F64
    rank: int
    ridge: bool = False

    def predict(self, x: F64) -> F64:
        """The fitted values (n,) of rows x (n, p)."""
        return self.intercept + x @ self.slopes


def least_squares(x: F64, y: F64, weight: F64 | None = None) -> Linear:
    """argmin sum w (y - a - x b)^2 over x (n, p), y (n,), weight (n,) > 0; shortest b of several.

    Columns are centred and scaled first, so dates in seconds are safe; constant ones have slope 0.
    With n <= p it is a ridge with penalty 1e-3 trace(Z'Z)/p of the scaled columns Z. Blocks are
    reduced to a triangle one after another: O(n p^2) time, O(p^2) memory beyond x.
    """
    n, p = x.shape
    w = np.ones(n) if weight is None else weight
    centre, level = np.average(x, axis=0, weights=w), float(np.average(y, weights=w))
    scale = np.sqrt(np.average((x - centre) ** 2, axis=0, weights=w))
    # What a constant column leaves after centring is rounding.
    used = scale > 1e-12 * np.maximum(np.abs(centre), 1e-300)
    if not used.any():
        return Linear(level, np.zeros(p), 1)
    z = (x[:, used] - centre[used]) / scale[used]
    short = n <= p
    b, rank = _ridge(z, y - level, w) if short else _triangle(z, y - level, np.sqrt(w))
    slopes = np.zeros(p)
    slopes[used] = b / scale[used]
    return Linear(level - float(centre @ slopes), slopes, rank + 1, short)


def _triangle(z: F64, y: F64, root: F64) -> tuple[F64, int]:
    """Slopes and rank; orthogonal reductions keep the residual, so the small system has the same
    solution as the long one."""
    r = np.zeros((0, z.shape[1] + 1))
    for start in range(0, len(z), BLOCK):
        rows = slice(start, start + BLOCK)
        block = np.column_stack([z[rows], y[rows]]) * root[rows, None]
        r = np.asarray(np.linalg.qr(np.vstack([r, block]), mode="r"))
    cut = len(z) * np.finfo(np.float64).eps
    b, _, rank, _ = np.linalg.lstsq(r[:, :-1], r[:, -1], rcond=cut)
    return b, int(rank)


def _ridge(z: F64, y: F64, w: F64) -> tuple[F64, int]:
    gram = (z * w[:, None]).T @ z
    penalty = 1e-3 * np.trace(gram) / len(gram)
    b = np.linalg.solve(gram + penalty * np.eye(len(gram)), z.T @ (w * y))
    return b, int(np.linalg.matrix_rank(z))


@dataclass(frozen=True, slots=True)
class Effects:
    """A fit with a constant for every group: `effects`, one array of constants a way of grouping.
    `alone` (n,) tells the rows that are the only one of a group: nothing is known of them."""

    line: Linear
    effects: tuple[F64, ...]
    residual: F64
    alone: NDArray[np.bool_]


def fixed_effects(x: F64, y: F64, groups: Sequence[Ints], weight: F64 | None = None) -> Effects:
    """Least squares with a constant for every group of each of `groups`, (n,) codes from 0.

    x may have no column. Group means are taken off y and x (alternating between the groupings, at
    most 1000 rounds), so no column a group is made: O(n p rounds). Equal to the regression on
    dummies.
    """
    n, p = x.shape
    w = np.ones(n) if weight is None else weight
    table = np.column_stack([y, x])
    spread = table.std(axis=0)
    sums = [sp.csr_matrix((w, (code, np.arange(n)))) for code in groups]
    weights = [np.maximum(np.asarray(s.sum(axis=1)), 1e-300) for s in sums]
    taken = [np.zeros((s.shape[0], p + 1)) for s in sums]
    for _ in range(SWEEPS if len(groups) > 1 else 1):
        change = np.zeros(p + 1)
        for way, code in enumerate(groups):
            means = (sums[way] @ table) / weights[way]
            table -= means[code]
            taken[way] += means
            change = np.maximum(change, np.abs(means).max(axis=0))
        if (change <= 1e-10 * spread).all():
            break
    line = least_squares(_without_noise(table[:, 1:], spread[1:]), table[:, 0], w)
    residual = table[:, 0] - line.predict(table[:, 1:])
    effects = tuple(t[:, 0] - t[:, 1:] @ line.slopes for t in taken)
    alone = np.zeros(n, dtype=bool)
    for code in groups:
        alone |= np.bincount(code)[code] == 1
    residual[alone] = 0.0
    return Effects(line, effects, residual, alone)


def _without_noise(x: F64, spread: F64) -> F64:
    """Columns that are constant in every group are zero but for rounding: make them zero."""
    return np.where(np.abs(x).max(axis=0, initial=0) <= 1e-9 * spread, 0.0, x)


def crossfit(x: F64, y: F64, fold: Ints, penalty: float = 1.0) -> F64:
    """Predictions (n,) of a ridge fitted without the row's own fold, from the other folds.

    Columns are standardised with mean and population deviation of the training rows, the
    intercept is not penalised, `penalty` stands on the diagonal of Z'Z. O(folds n p^2).
    """
    found = np.full(len(y), float(y.mean()) if len(y) else 0.0)
    for k in np.unique(fold):
        inside, rest = fold == k, fold != k
        if not rest.any():
            continue
        centre, scale, level = x[rest].mean(axis=0), x[rest].std(axis=0), y[rest].mean()
        used = scale > 1e-12 * np.maximum(np.abs(centre), 1e-300)
        z = (x[rest][:, used] - centre[used]) / scale[used]
        gram = z.T @ z + penalty * np.eye(z.shape[1])
        b = np.linalg.solve(gram, z.T @ (y[rest] - level))
        found[inside] = level + ((x[inside][:, used] - centre[used]) / scale[used]) @ b
    return found


@dataclass(frozen=True, slots=True)
class Instrumented:
    """Two-stage least squares: the `slope` of the cause and its `error`, the `intercept`, slopes
    of the controls, and the partial `f` of the first stage (below 10 the instrument is weak)."""

    intercept: float
    slope: float
    controls: F64
    error: float
    f: float


def two_stage(y: F64, cause: F64, instruments: F64, controls: F64) -> Instrumented:
    """The effect on y (n,) of a `cause` (n,) that shares unseen causes with it.

    `instruments` (n, q) move the cause and touch y through it alone; `controls` (n, c) may have no
    column. The first stage predicts the cause; the second takes the prediction in its place. The
    standard error comes from residuals with the actual cause. O(n (q + c)^2).
    """
    first = least_squares(np.column_stack([instruments, controls]), cause)
    plain = least_squares(controls, cause)
    predicted = first.predict(np.column_stack([instruments, controls]))
    rss = float(((cause - predicted) ** 2).sum())
    moved = predicted - plain.predict(controls)
    added, free = first.rank - plain.rank, len(y) - first.rank
    explained = float((moved**2).sum())
    if added == 0 or free <= 0 or rss == 0:
        f = np.inf if added and free > 0 else 0.0
    else:
        f = explained / added / (rss / free)
    second = least_squares(np.column_stack([predicted, controls]), y)
    residual = y - second.predict(np.column_stack([cause, controls]))
    degrees = max(1, len(y) - second.rank)
    error = np.sqrt(float((residual**2).sum()) / degrees / max(explained, 1e-300))
    return Instrumented(second.intercept, float(second.slopes[0]), second.slopes[1:], error, f)
