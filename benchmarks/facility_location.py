"""Facility location of ours against apricot (where installed) and a literal lazy greedy.

python benchmarks/facility_location.py --out benchmarks/results/facility_location.json
"""

from __future__ import annotations

import argparse
import heapq
import importlib
import importlib.util
import time
from pathlib import Path

import numpy as np

from benchmarks._record import record
from tamis.selectors import FacilityLocation, Pool


def rows(n: int, d: int) -> np.ndarray:
    """Unit rows around a few hundred centres."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(300, d))
    x = centres[rng.integers(300, size=n)] + rng.normal(size=(n, d))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def literal(x: np.ndarray, k: int) -> list[int]:
    """Lazy greedy as written down: the full matrix in float64, one row looked at a time."""
    similar = np.maximum(x.astype(np.float64) @ x.astype(np.float64).T, 0)
    best = np.zeros(len(x))
    heap = [(-gain, row) for row, gain in enumerate(similar.sum(axis=0).tolist())]
    heapq.heapify(heap)
    picked: list[int] = []
    while len(picked) < k:
        _, row = heapq.heappop(heap)
        gain = np.maximum(similar[row] - best, 0).sum()
        if heap and -gain > heap[0][0]:
            heapq.heappush(heap, (-gain, row))
            continue
        picked.append(row)
        np.maximum(best, similar[row], out=best)
    return picked


def apricot(x: np.ndarray, k: int) -> list[int]:
    module = importlib.import_module("apricot")
    similar = np.maximum(x.astype(np.float64) @ x.astype(np.float64).T, 0)
    model = module.FacilityLocationSelection(k, metric="precomputed", optimizer="lazy")
    return model.fit(similar).ranking.tolist()


def objective(x: np.ndarray, picked: list[int]) -> float:
    return float(np.maximum(x @ x[picked].T, 0).max(axis=1).sum())


def timed(call):
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--picks", type=int, default=1000)
    parser.add_argument("--neighbours", type=int, default=None)
    parser.add_argument("--rivals", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    x = rows(given.rows, given.width)
    method = FacilityLocation(embedding="x", neighbours=given.neighbours)
    pool = Pool(len(x), {"x": x})
    found, fast = timed(lambda: method.select(pool, given.picks, rng=np.random.default_rng(0)))
    reached = objective(x, found.index.tolist())
    result = {
        "benchmark": "facility_location",
        "rows": given.rows,
        "width": given.width,
        "picks": given.picks,
        "seconds": round(fast, 2),
        "objective": reached,
    }
    rivals = {"literal": literal}
    if importlib.util.find_spec("apricot"):
        rivals["apricot"] = apricot
    for name, rival in rivals.items() if given.rivals else ():
        picked, slow = timed(lambda rival=rival: rival(x, given.picks))
        result[f"{name}_seconds"] = round(slow, 2)
        result[f"{name}_ratio"] = round(slow / fast, 2)
        result[f"{name}_objective_share"] = objective(x, picked) / reached
    result |= {
        "aim": 2,
    }
    record(result, given.out)


if __name__ == "__main__":
    main()
