"""Entropic optimal transport between two point sets, without a stored cost matrix."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tamis.errors import DataError
from tamis.numerics.device import resolve

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Precision = Literal["float64", "float32"]

# A kernel of up to this many bytes is stored; beyond, it is computed again in blocks.
KERNEL_BYTES = 1_000_000_000
# Cells of one block: what a core's cache holds, and what keeps a GPU busy.
_BLOCK_CELLS = {"cpu": 1_000_000, "cuda": 64_000_000}
# Regularisation weaker than this share of the median cost is approached by halves.
_ANNEAL = 0.02
# Kernels and scalings stay within exp of this: beyond, rows of a kernel are divided by their
# largest entry, and scalings are taken into the potentials.
_ABSORB = {"float64": 200.0, "float32": 20.0}
# How fast the error falls is looked at every so many iterations, and the most over-relaxation.
_LOOK = 5
_BOLD = 0.4


@dataclass(frozen=True, slots=True)
class Potentials:
    """Dual potentials f (m,) and g (n,): P_ij = exp((f_i + g_j - C_ij) / epsilon).

    g is exact for f. `error` is the L1 error of both marginals in the last iteration, `cost` is
    <C, P>, `converged` whether the error reached the tolerance.
    """

    f: F64
    g: F64
    cost: float
    error: float
    iterations: int
    converged: bool


def median_cost(target: F32, candidates: F32) -> float:
    """Median squared distance over at most 1,000 x 1,000 evenly spaced pairs."""
    y, x = (v[:: max(1, len(v) // 1000)].astype(np.float64) for v in (target, candidates))
    square = (y**2).sum(1)[:, None] + (x**2).sum(1) - 2 * y @ x.T
    return float(np.median(np.maximum(square, 0)))


def solve(
    target: F32,
    candidates: F32,
    epsilon: float,
    *,
    tolerance: float = 1e-3,
    iterations: int = 2000,
    momentum: float | None = None,
    precision: Precision = "float64",
    device: str = "auto",
    kernel_bytes: int = KERNEL_BYTES,
) -> Potentials:
    """Sinkhorn for squared Euclidean cost and uniform weights, with log potentials.

    `target` (m, d), `candidates` (n, d). A small `epsilon` is approached by halves. Both
    potentials are over-relaxed by `momentum`; None takes it from how fast the error falls
    (Lehmann et al. 2022, arXiv 2012.12562). Costs are those of the centred points, which is the
    same and cancels less.

    A kernel that fits into `kernel_bytes` is stored, with the potentials it was made at taken
    in, so that it does not underflow; an iteration reads it once. Otherwise its blocks are made
    again: O(n m d) an iteration and O(n + m) memory. Both are the same arithmetic.

    Raises `DataError` for empty sets and an epsilon that is not above 0.
    """
    if len(target) == 0 or len(candidates) == 0:
        raise DataError(
            f"optimal transport needs rows on both sides, got {len(target)} and {len(candidates)}"
        )
    if not epsilon > 0:
        raise DataError(f"epsilon must be above 0, got {epsilon}")
    problem = _Problem(target, candidates, precision, resolve(device), kernel_bytes)
    schedule, middle = [epsilon], median_cost(target, candidates)
    while schedule[-1] < _ANNEAL * middle:
        schedule.append(schedule[-1] * 2)
    done, error = 0, math.inf
    for step in reversed(schedule):
        enough = tolerance if step == epsilon else max(tolerance, 0.05)
        error, used = problem.run(step, enough, max(1, iterations - done), momentum)
        done += used
    g, cost = problem.finish()
    f: F64 = problem.f.cpu().numpy()
    return Potentials(f, g.cpu().numpy(), cost, error, done, error <= tolerance)


class _Problem:
    """Points on the device, the potentials f and g, and the sweep that improves both.

    Row j of the kernel is exp((f0_i + base_j - C_ij) / epsilon) over targets i, where base_j keeps
    it in the range of floats:
    P_ij = exp((f_i - f0_i) / epsilon) K_ji exp((g_j - base_j) / epsilon).
    """

    def __init__(
        self, target: F32, candidates: F32, precision: Precision, device: str, kernel_bytes: int
    ) -> None:
        import torch

        self.torch, self.absorb = torch, _ABSORB[precision]
        self.kind = torch.float64 if precision == "float64" else torch.float32
        centre = candidates.mean(axis=0, dtype=np.float64)
        self.y, self.x = (self._points(v, centre, device) for v in (target, candidates))
        self.y_square, self.x_square = (
            torch.einsum("ij,ij->i", v, v).double() for v in (self.y, self.x)
        )
        self.largest = 2 * math.sqrt(float(self.y_square.max()) * float(self.x_square.max()))
        n, m = len(self.x), len(self.y)
        self.log_a, self.log_b = -math.log(m), -math.log(n)
        step = max(1, _BLOCK_CELLS[device] // m)
        self.blocks = [slice(start, start + step) for start in range(0, n, step)]
        stored = n * m * self.y.element_size() <= kernel_bytes
        self.kernel = torch.empty((n, m), dtype=self.kind, device=device) if stored else None
        self.base = torch.empty(n, dtype=torch.float64, device=device)
        self.f, self.g = self._nearest(), self.base.clone()
        self.f0: Any = None
        self.epsilon = 0.0

    def _points(self, x: F32, centre: F64, device: str) -> Any:
        torch = self.torch
        wide = torch.tensor(x, dtype=torch.float64, device=device)
        return wide.sub_(torch.tensor(centre, device=device)).to(self.kind)

    def _nearest(self) -> Any:
        """Least cost of each target over some candidates: an f with which no column vanishes."""
        some = slice(None, None, max(1, len(self.x) // 500))
        half = self.x_square[some, None] - 2 * (self.x[some] @ self.y.T).double()
        return (half + self.y_square).min(0).values

    def run(
        self, epsilon: float, tolerance: float, most: int, momentum: float | None
    ) -> tuple[float, int]:
        """Iterate at one epsilon until the marginal error is below the tolerance."""
        self.epsilon, self.f0 = epsilon, None
        omega, rising, errors = momentum or 1.0, 0, [math.inf]
        while len(errors) <= most:
            # The first g is the exact one: there is none of this epsilon to relax.
            errors.append(self._sweep(omega if len(errors) > 1 else 1.0))
            if errors[-1] <= tolerance:
                break
            rising = 0 if errors[-1] < errors[-2] else rising + 1
            if rising >= 20:
                omega = momentum = 1.0
            elif momentum is None and len(errors) % _LOOK == 1:
                omega = _relaxation(omega, (errors[-1] / errors[1 - _LOOK]) ** (1 / (_LOOK - 2)))
        return errors[-1], len(errors) - 1

    def _sweep(self, omega: float) -> float:
        """Improve g, then f; the L1 error of both marginals in between."""
        torch, epsilon = self.torch, self.epsilon
        u = self._scaling()
        column = torch.zeros_like(self.f)
        off = torch.zeros((), dtype=torch.float64, device=self.f.device)
        for at in self.blocks:
            kernel, base = self._rows(at), self.base[at]
            exact = base + epsilon * (self.log_b - (kernel @ u).double().log())
            relaxed = exact + (1 - omega) * (self.g[at] - exact) if omega != 1 else exact
            off += torch.expm1((relaxed - exact) / epsilon).abs().sum()
            self.g[at] = relaxed
            column += ((relaxed - base) / epsilon).exp().to(self.kind) @ kernel
        exact = self.f0 + epsilon * (self.log_a - column.clamp_(min=1e-300).log())
        error = torch.expm1((self.f - exact) / epsilon).abs().mean() + off / len(self.x)
        self.f = exact + (1 - omega) * (self.f - exact)
        return float(error)

    def _scaling(self) -> Any:
        """exp((f - f0) / epsilon), after the kernel was made anew where that is due."""
        if self.kernel is None:
            self.f0 = self.f
        elif self.f0 is None or float((self.f - self.f0).abs().max()) > self.absorb * self.epsilon:
            self.f0 = self.f
            for at in self.blocks:
                self._make(at, self.kernel[at])
        return ((self.f - self.f0) / self.epsilon).exp().to(self.kind)

    def _rows(self, at: slice) -> Any:
        """The kernel of some candidates: the stored one, or made now."""
        return self._make(at, None) if self.kernel is None else self.kernel[at]

    def _make(self, at: slice, out: Any) -> Any:
        bias = (self.f0 - self.y_square) / self.epsilon
        scale = 2 / self.epsilon
        inner = self.torch.addmm(bias.to(self.kind), self.x[at], self.y.T, alpha=scale, out=out)
        self.base[at] = self.x_square[at]
        if float(bias.abs().max()) + self.largest / self.epsilon > self.absorb:
            top = inner.amax(1, keepdim=True)
            self.base[at] -= self.epsilon * top[:, 0].double()
            inner.sub_(top)
        return inner.exp_()

    def finish(self) -> tuple[Any, float]:
        """The g that is exact for the final f, and <C, P>."""
        u = self._scaling()
        shifted = (u.double() * self.f0).to(self.kind)
        spent = 0.0
        for at in self.blocks:
            kernel, base = self._rows(at), self.base[at]
            total = (kernel @ u).double()
            # C = f0 + base - epsilon log K where K is above 0; elsewhere nothing is moved.
            logs = self.torch.special.xlogy(kernel, kernel) @ u
            paid = (kernel @ shifted).double() + base * total - self.epsilon * logs.double()
            spent += float((paid / total).sum()) / len(self.x)
            self.g[at] = base + self.epsilon * (self.log_b - total.log())
        return self.g, spent


def _relaxation(omega: float, rate: float) -> float:
    """A better over-relaxation, from the rate at which the error falls with the present one."""
    if rate >= 1:
        return 1 + 0.9 * (omega - 1)
    if rate <= omega - 1:
        return omega  # this rate is what too much of it gives
    plain = (rate + omega - 1) ** 2 / (rate * omega**2)
    best = 2 / (1 + math.sqrt(max(0.0, 1 - plain)))
    # Errors swing once there is too much: a single look must not lead far.
    return min(best, omega + _BOLD * (2 - omega))
