"""Sinkhorn potentials of ours against POT, from embeddings to potentials, at equal tolerance.

    python benchmarks/transport.py --out benchmarks/results/transport.json

Cost building counts on both sides; ours and POT's linear solver are the better of two runs. The
blocked form runs first, so that its peak memory is its own. Without POT only our time is told.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import resource
import time
from pathlib import Path

import numpy as np

from benchmarks._record import record, times
from tamis.numerics import sinkhorn


def sets(n: int, m: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit rows: a pool around fifty centres, a target around five of them."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(50, d))

    def near(which: np.ndarray) -> np.ndarray:
        x = centres[which] + rng.normal(size=(len(which), d))
        return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)

    return near(rng.integers(50, size=n)), near(rng.integers(5, size=m))


def rival(x: np.ndarray, y: np.ndarray, epsilon: float, method: str, tolerance: float):
    """g of POT: cost building counted."""
    ot = importlib.import_module("ot")
    start = time.perf_counter()
    cost = ot.dist(y.astype(np.float64), x.astype(np.float64))
    a, b = np.full(len(y), 1 / len(y)), np.full(len(x), 1 / len(x))
    _, log = ot.sinkhorn(
        a, b, cost, epsilon, method=method, stopThr=tolerance, numItermax=5000, log=True
    )
    seconds = time.perf_counter() - start
    g = epsilon * (np.log(log["v"]) if "v" in log else log["log_v"])
    return g - g.mean(), seconds


def peak() -> float:
    """The most memory of this process so far, in GB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--target", type=int, default=2000)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--relative-epsilon", type=float, default=0.05)
    parser.add_argument("--tolerance", type=float, default=1e-9)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="float64", choices=["float64", "float32"])
    parser.add_argument("--no-rivals", action="store_true")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    x, y = sets(given.rows, given.target, given.width)
    epsilon = given.relative_epsilon * sinkhorn.median_cost(y, x)

    def ours(**more: int) -> tuple[sinkhorn.Potentials, float]:
        start = time.perf_counter()
        found = sinkhorn.solve(
            y,
            x,
            epsilon,
            tolerance=given.tolerance,
            iterations=5000,
            precision=given.precision,
            device=given.device,
            **more,
        )
        return found, time.perf_counter() - start

    sinkhorn.solve(y[:10], x[:10], epsilon, device=given.device)  # imports
    result = {
        "benchmark": "transport",
        "rows": given.rows,
        "target": given.target,
        "width": given.width,
        "points_gb": peak(),
    }
    blocked, seconds = ours(kernel_bytes=0)
    result |= {"blocked_seconds": round(seconds, 2), "blocked_peak_gb": peak()}
    (found, first), (_, second) = ours(), ours()
    seconds = min(first, second)
    result |= {
        "seconds": round(seconds, 2),
        "stored_peak_gb": peak(),
        "iterations": found.iterations,
        "error": found.error,
        "stored_minus_blocked": float(np.abs(found.g - blocked.g).max()),
    }
    lines = []
    if importlib.util.find_spec("ot") and not given.no_rivals:
        importlib.import_module("ot")  # takes seconds
        for method, runs, aim in (("sinkhorn", 2, 1), ("sinkhorn_log", 1, 2)):
            tries = [rival(x, y, epsilon, method, given.tolerance) for _ in range(runs)]
            slow = min(took for _, took in tries)
            gap = np.abs(tries[0][0] - (found.g - found.g.mean())).max()
            size = f"gotd potentials, {given.rows:,} x {given.target:,}"
            lines.append(times(size, seconds, f"POT {method}", slow, at_least=aim))
            result |= {
                f"pot_{method}_seconds": round(slow, 2),
                f"pot_{method}_difference": float(gap),
            }
    record({**result, "lines": lines}, given.out)


if __name__ == "__main__":
    main()
