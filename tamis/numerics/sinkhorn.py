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

# A kernel of up to this many bytes is stored; beyond, costs are computed again in blocks.
KERNEL_BYTES = 1_000_000_000
_BLOCK_CELLS = 8_000_000
# Regularisation weaker than this share of the median cost is approached by halves.
_ANNEAL = 0.02
# Scalings above exp(20) are taken into the potentials before the kernel loses digits.
_ABSORB = 20.0


@dataclass(frozen=True, slots=True)
class Potentials:
    """Dual potentials f (m,) and g (n,): P_ij = exp((f_i + g_j - C_ij) / epsilon).

    `error` is the L1 error of the target's marginal, `cost` is <C, P>, `converged` whether the
    error reached the tolerance.
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
    momentum: float = 1.3,
    precision: Precision = "float64",
    device: str = "auto",
    kernel_bytes: int = KERNEL_BYTES,
) -> Potentials:
    """Sinkhorn in the log domain for squared Euclidean cost and uniform weights.

    `target` (m, d), `candidates` (n, d). A small `epsilon` is approached by halves; updates are
    over-relaxed by `momentum`, which is given up when the error keeps rising. Time O(n m d) an
    iteration in blocks with O(n + m) memory; when the kernel fits into `kernel_bytes`, it is
    stored and an iteration is two matrix-vector products. Costs are those of the centred points,
    which is the same and cancels less.

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
        last = step == epsilon
        error, used = problem.run(
            step, tolerance if last else max(tolerance, 0.05), iterations - done, momentum
        )
        done += used
    g, cost = problem.finish(epsilon)
    return Potentials(problem.potential(), g, cost, error, done, error <= tolerance)


class _Problem:
    """Points on the device, the potential of the target, and the pass that improves it."""

    def __init__(
        self, target: F32, candidates: F32, precision: Precision, device: str, kernel_bytes: int
    ) -> None:
        import torch

        self.torch = torch
        self.kind = torch.float64 if precision == "float64" else torch.float32
        centre = candidates.mean(axis=0, dtype=np.float64)
        self.y = self._points(target - centre, device)
        self.x = self._points(candidates - centre, device)
        self.f = torch.zeros(len(self.y), dtype=torch.float64, device=device)
        self.y_square = (self.y * self.y).sum(1)
        self.log_a, self.log_b = -math.log(len(self.y)), -math.log(len(self.x))
        self.stored = len(self.x) * len(self.y) * self.y.element_size() <= kernel_bytes
        self.block = max(1, _BLOCK_CELLS // len(self.y))
        self.kernel: _Kernel | None = None

    def _points(self, x: F64, device: str) -> Any:
        return self.torch.from_numpy(np.ascontiguousarray(x)).to(device=device, dtype=self.kind)

    def costs(self, start: int) -> Any:
        """Squared distances of one block of candidates to all targets."""
        part = self.x[start : start + self.block]
        cost = self.torch.addmm(self.y_square, part, self.y.T, alpha=-2)
        return cost.add_((part * part).sum(1)[:, None]).clamp_(min=0)

    def run(
        self, epsilon: float, tolerance: float, most: int, momentum: float
    ) -> tuple[float, int]:
        """Iterate at one epsilon until the marginal error is below the tolerance."""
        error, rising, step = math.inf, 0, 0
        self.kernel = None
        while step < max(1, most):
            if self.stored and (self.kernel is None or self.kernel.far()):
                self.kernel = None  # the old one is freed before the new one is made
                self.kernel = _Kernel(self, epsilon)
            new = self.kernel.update() if self.kernel else self._pass(epsilon)[0]
            before, error = error, float(self._error(new, epsilon))
            step += 1
            if error <= tolerance:
                break
            rising = rising + 1 if error > before else 0
            if rising >= 20:
                momentum = 1.0
            self.f = (1 - momentum) * self.f + momentum * new
        return error, step

    def _error(self, new: Any, epsilon: float) -> Any:
        """L1 error of the target's marginal at the present f, from the f that would mend it."""
        return self.torch.expm1((self.f - new) / epsilon).abs().mean()

    def _pass(self, epsilon: float) -> tuple[Any, Any, float]:
        """One fused pass over the candidates: (next f, g, <C, P> at the present f)."""
        torch = self.torch
        top = torch.full_like(self.f, -math.inf)
        total = torch.zeros_like(self.f)
        g = torch.empty(len(self.x), dtype=torch.float64, device=self.f.device)
        spent = 0.0
        f = self.f.to(self.kind)
        for start in range(0, len(self.x), self.block):
            cost = self.costs(start)
            inner = (f - cost) / epsilon
            here = epsilon * (self.log_b - torch.logsumexp(inner, 1).double())
            g[start : start + self.block] = here
            # log P, then online log-sum-exp over the candidates for each target.
            inner += (here / epsilon).to(self.kind)[:, None]
            best = torch.maximum(top, inner.max(0).values.double())
            plan = (inner - best.to(self.kind)).exp_()
            total = total * (top - best).exp() + plan.sum(0, dtype=torch.float64)
            top = best
            spent += float((inner.exp_() * cost).sum(dtype=torch.float64))
        new = self.f + epsilon * (self.log_a - (top + total.log()))
        return new, g, spent

    def finish(self, epsilon: float) -> tuple[F64, float]:
        """g of the final f, and <C, P>."""
        if self.kernel and not self.kernel.far():
            g, cost = self.kernel.finish()
        else:
            _, g, cost = self._pass(epsilon)
        values: F64 = g.cpu().numpy()
        return values, cost

    def potential(self) -> F64:
        """f."""
        values: F64 = self.f.cpu().numpy()
        return values


class _Kernel:
    """exp((f + g - C) / epsilon) at some potentials; later ones are scalings of its sides."""

    def __init__(self, problem: _Problem, epsilon: float) -> None:
        torch = problem.torch
        self.problem, self.epsilon, self.start = problem, epsilon, problem.f.clone()
        n, m = len(problem.x), len(problem.y)
        self.matrix = torch.empty((n, m), dtype=problem.kind, device=problem.f.device)
        self.g = torch.empty(n, dtype=torch.float64, device=problem.f.device)
        f = self.start.to(problem.kind)
        for at in range(0, n, problem.block):
            inner = (f - problem.costs(at)).div_(epsilon)
            top = inner.max(1, keepdim=True).values
            inner.sub_(top).exp_()
            total = inner.sum(1, keepdim=True)
            # Each row sums to 1 / n, which is the g that belongs to this f.
            torch.div(inner, total * n, out=self.matrix[at : at + problem.block])
            lse = top.double() + total.double().log()
            self.g[at : at + problem.block] = epsilon * (problem.log_b - lse[:, 0])

    def _scalings(self) -> tuple[Any, Any]:
        """Of the columns for the present f, and of the rows for the g that belongs to it."""
        problem = self.problem
        u = ((problem.f - self.start) / self.epsilon).exp().to(problem.kind)
        return u, math.exp(problem.log_b) / (self.matrix @ u)

    def update(self) -> Any:
        """The f that mends the target's marginal at the g that belongs to the present f."""
        _, v = self._scalings()
        return self.start + self.epsilon * (self.problem.log_a - (self.matrix.T @ v).double().log())

    def finish(self) -> tuple[Any, float]:
        """g and <C, P> at the present f."""
        u, v = self._scalings()
        spent = 0.0
        for at in range(0, len(v), self.problem.block):
            here = slice(at, at + self.problem.block)
            weighted = self.problem.costs(at).mul_(self.matrix[here]) @ u
            spent += float((weighted * v[here]).sum(dtype=self.problem.torch.float64))
        return self.g + self.epsilon * v.double().log(), spent

    def far(self) -> bool:
        """Whether the scalings have grown so large that the kernel must be made anew."""
        gap = (self.problem.f - self.start).abs().max() / self.epsilon
        return float(gap) > _ABSORB
