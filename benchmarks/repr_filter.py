"""The deita filter against a loop that gathers the kept rows at each step: same rows, how much
faster.

    python benchmarks/repr_filter.py --out benchmarks/results/repr_filter.json
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks._record import record, times
from tamis.numerics.threshold import greedy_filter


def clustered(n: int, d: int, seed: int) -> np.ndarray:
    """Rows around many centres, so that a share of them is close to an earlier one."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(n // 2, d))
    x = centres[rng.integers(len(centres), size=n)] + 0.25 * rng.normal(size=(n, d))
    return x.astype(np.float32)


def gathering_loop(x: np.ndarray, order: np.ndarray, tau: float) -> list[int]:
    """The rule as written down: S = X[kept] at every step."""
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    kept = [order[0]]
    for row in order[1:]:
        if (unit[kept] @ unit[row]).max() <= tau:
            kept.append(row)
    return kept


def best_of(repeats: int, call):
    """The result and the shortest of several times."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = call()
        seconds.append(time.perf_counter() - start)
    return result, min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--tau", type=float, default=0.9)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()

    x = clustered(given.rows, given.width, seed=0)
    order = np.random.default_rng(1).permutation(given.rows)
    with threadpool_limits(1):
        ours, fast = best_of(3, lambda: greedy_filter(x, order, given.tau, given.rows))
        theirs, slow = best_of(2, lambda: gathering_loop(x, order, given.tau))
    if order[ours.kept].tolist() != [int(row) for row in theirs]:
        raise SystemExit("the two filters keep different rows")
    result = {
        "benchmark": "repr_filter",
        "rows": given.rows,
        "width": given.width,
        "kept": len(theirs),
        "seconds": round(fast, 4),
        "loop_seconds": round(slow, 4),
        "threads": 1,
        "lines": [
            times(f"Repr filter, n={given.rows:,}", fast, "gathering loop", slow, at_least=10)
        ],
    }
    record(result, given.out)


if __name__ == "__main__":
    main()
