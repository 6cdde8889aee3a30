"""The deita filter on a large pool, against one float32 product of the same size.

python benchmarks/deita.py --out benchmarks/results/deita.json
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from benchmarks._record import record, times, within
from tamis.numerics.threshold import greedy_filter


def rows(n: int, d: int) -> np.ndarray:
    """Unit rows with clusters of near copies, so that the scan goes through most of them."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(n // 20, d))
    x = centres[rng.integers(len(centres), size=n)] + 0.2 * rng.normal(size=(n, d))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def loop(x: np.ndarray, tau: float, k: int) -> list[int]:
    """One row at a time against the kept rows, which lie in one block of memory."""
    kept = np.empty((k, x.shape[1]), dtype=np.float32)
    index: list[int] = []
    for row in range(len(x)):
        if len(index) == k:
            break
        if not index or (kept[: len(index)] @ x[row]).max() <= tau:
            kept[len(index)] = x[row]
            index.append(row)
    return index


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--picks", type=int, default=5000)
    parser.add_argument("--tau", type=float, default=0.9)
    parser.add_argument("--check", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    x = rows(given.rows, given.width)
    order = np.arange(given.rows)
    start = time.perf_counter()
    found = greedy_filter(x, order, given.tau, given.picks)
    seconds = time.perf_counter() - start
    examined = len(found.nearest)
    kept = x[found.kept]
    start = time.perf_counter()
    for at in range(0, examined, 8192):
        x[at : min(at + 8192, examined)] @ kept.T
    floor = time.perf_counter() - start
    result = {
        "benchmark": "deita",
        "rows": given.rows,
        "width": given.width,
        "picks": len(found.kept),
        "examined": examined,
        "seconds": round(seconds, 2),
        "product_seconds": round(floor, 2),
        "lines": [
            within(f"deita, n={given.rows:,}, k={given.picks:,}", seconds, "limit", 20, at_most=1),
            within("deita", seconds, "one float32 product", floor, at_most=3),
        ],
    }
    if given.check:
        start = time.perf_counter()
        same = found.kept.tolist() == loop(x, given.tau, given.picks)
        slow = time.perf_counter() - start
        if not same:
            raise SystemExit("the filter and the literal loop keep different rows")
        result["loop_seconds"] = round(slow, 2)
        result["lines"].append(times("deita", seconds, "literal loop", slow, at_least=1))
    record(result, given.out)


if __name__ == "__main__":
    main()
