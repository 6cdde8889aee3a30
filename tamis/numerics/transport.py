"""Exact optimal transport between a few chosen rows and a target."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tamis.errors import DataError, require

F64 = NDArray[np.float64]

# Without POT the general LP solver of scipy is used up to this many cells (seconds a solve).
LP_CELLS = 60_000
# Pivots of the network simplex; it needs some tens a row.
_STEPS = 10_000_000


@dataclass(frozen=True, slots=True)
class Plan:
    """Value and duals of one exact problem: u_i + w_j <= C_ij, value = a . u + b . w."""

    value: float
    u: F64
    w: F64


def solver() -> str:
    """Which solver runs: `pot` when it is installed, else `scipy`."""
    return "pot" if importlib.util.find_spec("ot") else "scipy"


def check(cells: int) -> None:
    """Raise `MissingPackage` when problems of so many cells need POT and it is not installed."""
    if cells > LP_CELLS:
        require("ot", "ot", f"exact optimal transport of {cells:,} pairs of rows")


def exact(cost: F64, b: F64) -> Plan:
    """Minimum of <C, P> over plans with equal row sums and column sums `b` (sums to 1).

    `cost` (k, m), not negative. Network simplex of POT where installed, else scipy's LP, which is
    far slower and limited to small problems. The duals are made tight:
    w_j = min_i (C_ij - u_i). Raises `MissingPackage` for large problems without POT, and
    `DataError` when the solver does not end at the optimum.
    """
    if solver() == "pot":
        u = _network_simplex(cost, b)
    else:
        check(cost.size)
        u = _linear_program(cost, b)
    w: F64 = (cost - u[:, None]).min(axis=0)
    return Plan(float(u.mean() + b @ w), u, w)


def _network_simplex(cost: F64, b: F64) -> F64:
    # By name: an optional package, which type checkers need not find.
    ot = importlib.import_module("ot")
    a = np.full(len(cost), 1 / len(cost))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            # Sums must agree to the last digit for the network simplex.
            _, log = ot.emd(a, b * (a.sum() / b.sum()), cost, numItermax=_STEPS, log=True)
        except UserWarning as error:
            raise DataError(f"exact optimal transport did not end: {error}") from error
    u: F64 = np.asarray(log["u"], dtype=np.float64)
    return u


def _linear_program(cost: F64, b: F64) -> F64:
    from scipy.optimize import linprog
    from scipy.sparse import identity as eye
    from scipy.sparse import kron, vstack

    k, m = cost.shape
    rows = kron(eye(k), np.ones((1, m)))
    columns = kron(np.ones((1, k)), eye(m))
    # One constraint follows from the others; without it the rest are independent.
    done = linprog(
        cost.ravel(),
        A_eq=vstack([rows, columns]).tocsr()[:-1],
        b_eq=np.concatenate([np.full(k, 1 / k), b])[:-1],
        bounds=(0, None),
        method="highs",
    )
    if done.status != 0:
        raise DataError(f"exact optimal transport did not end: {done.message}")
    u: F64 = np.asarray(done.eqlin.marginals[:k], dtype=np.float64)
    return u
