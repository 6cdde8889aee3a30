"""How much the risk of a surrogate model hangs on each row: h = H^-1 v once, then h . g."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tamis.errors import DataError
from tamis.numerics.blocked import rows_per_block

F64 = NDArray[np.float64]
Rows = NDArray[np.int64]


class Surrogate(Protocol):
    """A model of one block of d numbers in all, by its losses on n rows."""

    @property
    def rows(self) -> int:
        """n."""
        ...

    def gradient(self) -> F64:
        """Of the mean loss, (d,)."""
        ...

    def trace(self) -> float:
        """Of the Hessian of the mean loss: the sum of its eigenvalues."""
        ...

    def product(self, h: F64, rows: Rows | None = None) -> F64:
        """The Hessian of the mean loss of `rows` (default all) times `h` (d,)."""
        ...

    def dots(self, h: F64) -> F64:
        """The product of each row's gradient with `h`, (n,): a directional derivative of each
        loss, so no row's gradient is ever made."""
        ...


@dataclass(frozen=True, slots=True)
class SoftmaxRegression:
    """Mean cross-entropy of softmax(x W^T) with `x` (n, p), labels `y` in 0..c-1, `w` (c, p).

    Its Hessian is exact and never formed; every call is a few products of n x p x c, a block of
    rows at a time.
    """

    x: NDArray[np.floating]
    y: NDArray[np.integer]
    w: F64

    @property
    def rows(self) -> int:
        """See `Surrogate`."""
        return len(self.x)

    def trace(self) -> float:
        """See `Surrogate`."""
        total = 0.0
        for _, x, p in self._blocks():
            total += float(((x * x).sum(axis=1) * (p * (1 - p)).sum(axis=1)).sum())
        return total / len(self.x)

    def gradient(self) -> F64:
        """See `Surrogate`."""
        total = np.zeros_like(self.w)
        for rows, x, p in self._blocks():
            p[np.arange(len(rows)), self.y[rows]] -= 1
            total += p.T @ x
        return (total / len(self.x)).reshape(-1)

    def product(self, h: F64, rows: Rows | None = None) -> F64:
        """See `Surrogate`."""
        direction, total = h.reshape(self.w.shape), np.zeros_like(self.w)
        for _, x, p in self._blocks(rows):
            moved = p * (x @ direction.T)
            total += (moved - p * moved.sum(axis=1, keepdims=True)).T @ x
        return (total / (len(self.x) if rows is None else len(rows))).reshape(-1)

    def dots(self, h: F64) -> F64:
        """See `Surrogate`."""
        direction, values = h.reshape(self.w.shape), np.zeros(len(self.x))
        for rows, x, p in self._blocks():
            p[np.arange(len(rows)), self.y[rows]] -= 1
            values[rows] = (p * (x @ direction.T)).sum(axis=1)
        return values

    def loss(self) -> float:
        """The mean cross-entropy, in nats."""
        total = 0.0
        for rows, _, p in self._blocks():
            total -= float(np.log(np.maximum(p[np.arange(len(rows)), self.y[rows]], 1e-300)).sum())
        return total / len(self.x)

    def _blocks(self, rows: Rows | None = None) -> Iterator[tuple[Rows, F64, F64]]:
        """(row numbers, float64 x, softmax) of a block of rows after another."""
        rows = np.arange(len(self.x)) if rows is None else rows
        step = rows_per_block(sum(self.w.shape))
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            x = self.x[part].astype(np.float64)
            p = x @ self.w.T
            p = np.exp(p - p.max(axis=1, keepdims=True))
            yield part, x, p / p.sum(axis=1, keepdims=True)


@dataclass(frozen=True, slots=True)
class Gradients:
    """A model known by the (projected) gradient of each row, `g` (n, d), whose Hessian is taken
    to be their second moment, the empirical Fisher matrix."""

    g: NDArray[np.floating]

    @property
    def rows(self) -> int:
        """See `Surrogate`."""
        return len(self.g)

    def trace(self) -> float:
        """See `Surrogate`."""
        return float(np.einsum("nd,nd->", self.g, self.g, dtype=np.float64)) / len(self.g)

    def gradient(self) -> F64:
        """See `Surrogate`."""
        mean: F64 = self.g.mean(axis=0, dtype=np.float64)
        return mean

    def product(self, h: F64, rows: Rows | None = None) -> F64:
        """See `Surrogate`."""
        g = self.g if rows is None else self.g[rows]
        total = np.zeros(g.shape[1])
        step = rows_per_block(g.shape[1])
        for start in range(0, len(g), step):
            part = g[start : start + step].astype(np.float64)
            total += (part @ h) @ part
        return total / len(g)

    def dots(self, h: F64) -> F64:
        """See `Surrogate`."""
        step = rows_per_block(self.g.shape[1])
        parts = [
            self.g[start : start + step].astype(np.float64) @ h
            for start in range(0, len(self.g), step)
        ]
        return np.concatenate(parts) if parts else np.zeros(0)


def solve(surrogate: Surrogate, v: F64, *, damping: float, tolerance: float = 1e-10) -> F64:
    """h with (H + damping I) h = v by conjugate gradient, (d,).

    H is the Hessian of all rows; d products at most, mostly 10 to 50. Raises `DataError` when the
    residual does not fall below `tolerance` times |v|: the Hessian is then not positive.
    """
    from scipy.sparse.linalg import LinearOperator, cg

    def damped(h: F64) -> F64:
        return surrogate.product(h.reshape(-1)) + damping * h.reshape(-1)

    operator = LinearOperator((len(v), len(v)), matvec=damped, dtype=np.float64)
    with np.errstate(all="ignore"):
        h, failed = cg(operator, v, rtol=tolerance, atol=0.0, maxiter=10 * len(v))
    if failed or not np.isfinite(h).all():
        raise DataError(
            f"the inverse of the Hessian did not converge with damping {damping:g}: raise it"
        )
    found: F64 = h
    return found


def lissa(
    surrogate: Surrogate, v: F64, picks: Iterable[int], *, damp: float = 0.01, scale: float = 25.0
) -> F64:
    """The recursion of DEALRec's code: h = v + (1 - damp) h - H_i h / scale, a row i of `picks` a
    step, from h = v; (d,).

    Its mean tends to scale (H + damp scale I)^-1 v, so the effective damping is damp x scale, and
    the customary last division by `scale` is missing, as in the code. Raises `DataError` where it
    diverges: `scale` must be above half the largest eigenvalue of any row's Hessian. Source: Lin et
    al., "DEALRec", 2024 (arXiv 2401.17197); Agarwal et al., 2016 (arXiv 1602.03943).
    """
    h = v.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        for i in picks:
            h = v + (1 - damp) * h - surrogate.product(h, np.array([i])) / scale
    if not np.isfinite(h).all():
        raise DataError(
            f"the recursion for the inverse Hessian diverged with scale {scale:g}: raise it"
        )
    return h


def fit(
    x: NDArray[np.floating], y: NDArray[np.integer], classes: int, *, decay: float
) -> SoftmaxRegression:
    """Softmax regression by L-BFGS from zero weights, at most 200 steps; deterministic.

    Minimises the mean cross-entropy + decay/2 |W|^2. With decay > 0 the gradient of the mean loss
    does not vanish at the solution, which influence on the training risk needs.
    """
    from scipy.optimize import minimize

    shape = (classes, x.shape[1])

    def objective(w: F64) -> tuple[float, F64]:
        model = SoftmaxRegression(x, y, w.reshape(shape))
        return model.loss() + decay / 2 * float(w @ w), model.gradient() + decay * w

    found = minimize(
        objective,
        np.zeros(shape).reshape(-1),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 200},
    )
    return SoftmaxRegression(x, y, found.x.reshape(shape))
