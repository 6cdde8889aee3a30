"""A linear regression with a random constant for every group, by restricted likelihood (REML)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
Ints = NDArray[np.int64]
# The logarithm of var(group) / var(row) is searched here.
LOWEST, HIGHEST = -18.0, 14.0


@dataclass(frozen=True, slots=True)
class Mixed:
    """`intercept` and `slopes`, the two variances, and the predicted constant of every group
    (shrunk towards 0, the more the smaller the group; 0 for groups without rows)."""

    intercept: float
    slopes: F64
    between: float
    within: float
    effects: F64


def random_intercepts(x: F64, y: F64, group: Ints, groups: int) -> Mixed:
    """Fit y = a + x b + u_group + e, u ~ N(0, between), e ~ N(0, within), by REML.

    x (n, p) may have no column, `group` (n,) holds codes below `groups`. Only sums by group are
    needed after one pass: O(n p^2), then O(groups p^2) for each ratio of variances tried. With one
    group, or none that differs, `between` is 0. Several maxima are told apart by a grid before the
    search; the boundary 0 is among the candidates.
    """
    basis, back, centre = _basis(x)
    n, p = len(y), basis.shape[1] + 1
    design = np.column_stack([np.full(n, 1 / np.sqrt(n)), basis])
    # Columns are orthonormal; the likelihood does not see what they explain of y.
    first = design.T @ y
    rest = y - design @ first
    table = np.column_stack([design, rest])
    sums = np.column_stack([np.bincount(group, c, groups) for c in table.T]).astype(np.float64)
    sizes = np.bincount(group, minlength=groups)
    total = table.T @ table
    ratio = 0.0
    if n > p and np.count_nonzero(sizes) > 1 and total[-1, -1] > 1e-24 * float(y @ y):
        ratio = _search(total, sums, sizes, n - p)
    b, rss, _ = _solved(ratio, total, sums, sizes)
    shrink = ratio / (1 + ratio * sizes)
    effects = shrink * (sums[:, -1] - sums[:, :-1] @ b)
    within = rss / max(1, n - p)
    whole = first + b
    slopes = back @ whole[1:]
    intercept = float(whole[0] / np.sqrt(n) - centre @ slopes)
    return Mixed(intercept, slopes, float(ratio * within), float(within), effects)


def _basis(x: F64) -> tuple[F64, F64, F64]:
    """Orthonormal columns that span the centred x, the way back to slopes, and the centre."""
    centre = x.mean(axis=0)
    scale = x.std(axis=0)
    used = np.flatnonzero(scale > 1e-12 * np.maximum(np.abs(centre), 1e-300))
    z = (x[:, used] - centre[used]) / scale[used]
    value, vector = np.linalg.eigh(z.T @ z) if len(used) else (np.zeros(0), np.zeros((0, 0)))
    kept = value > 1e-12 * value.max(initial=0)
    back = np.zeros((x.shape[1], int(kept.sum())))
    back[used] = vector[:, kept] / np.sqrt(value[kept]) / scale[used][:, None]
    # Once more, against the rounding of the first: products of columns are then exact to 1e-15.
    basis, triangle = np.linalg.qr((x - centre) @ back)
    return basis, back @ np.linalg.inv(triangle), centre


def _solved(ratio: float, total: F64, sums: F64, sizes: Ints) -> tuple[F64, float, float]:
    """Slopes, weighted residual sum of squares and log determinant of X'V^-1 X at one ratio."""
    shrink = ratio / (1 + ratio * sizes)
    weighted = total - (sums * shrink[:, None]).T @ sums
    gram, cross = weighted[:-1, :-1], weighted[:-1, -1]
    b: F64 = np.linalg.solve(gram, cross).astype(np.float64)
    return b, float(weighted[-1, -1] - cross @ b), float(np.linalg.slogdet(gram)[1])


def _search(total: F64, sums: F64, sizes: Ints, free: int) -> float:
    from scipy.optimize import minimize_scalar

    def criterion(ratio: float) -> float:
        _, rss, log_det = _solved(ratio, total, sums, sizes)
        spread = float(np.log1p(ratio * sizes).sum())
        return float(0.5 * (free * np.log(max(rss, 1e-300) / free) + spread + log_det))

    grid = np.linspace(LOWEST, HIGHEST, 129)
    values = np.array([criterion(np.exp(at)) for at in grid])
    best, ratio = criterion(0.0), 0.0
    # Every dip of the grid, since the criterion may have several.
    edge = np.concatenate([[np.inf], values, [np.inf]])
    for at in np.flatnonzero((values <= edge[:-2]) & (values <= edge[2:])).tolist():
        bounds = (grid[max(at - 1, 0)], grid[min(at + 1, len(grid) - 1)])
        found = minimize_scalar(
            lambda t: criterion(np.exp(t)), bounds=bounds, method="bounded", options={"xatol": 1e-9}
        )
        if found.fun < best:
            best, ratio = float(found.fun), float(np.exp(found.x))
    return ratio
