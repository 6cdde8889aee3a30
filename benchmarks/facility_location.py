"""Facility location of ours against apricot, submodlib (where installed) and a literal lazy greedy,
and on a pool whose similarities would not fit into memory.

python benchmarks/facility_location.py --out benchmarks/results/facility_location.json
"""

from __future__ import annotations

import argparse
import heapq
import importlib
import importlib.util
import resource
from pathlib import Path

import numpy as np

from benchmarks._record import record, timed, times
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


def submodlib(x: np.ndarray, k: int) -> list[int]:
    module = importlib.import_module("submodlib")
    similar = np.maximum(x @ x.T, 0)
    model = module.FacilityLocationFunction(
        n=len(x), mode="dense", sijs=similar, separate_rep=False
    )
    picked = model.maximize(budget=k, optimizer="LazyGreedy", show_progress=False)
    return [row for row, _ in picked]


def large(n: int, d: int, k: int, neighbours: int) -> dict[str, float]:
    """A large pool on its sparse graph: n x n similarities would take 4 n^2 bytes."""
    x = rows(n, d)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    method = FacilityLocation(embedding="x", neighbours=neighbours)
    _, seconds = timed(lambda: method.select(Pool(n, {"x": x}), k, rng=np.random.default_rng(0)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "large_rows": n,
        "large_neighbours": neighbours,
        "large_seconds": round(seconds, 1),
        "large_pool_gb": round(before / 2**20, 2),
        "large_peak_gb": round(peak / 2**20, 2),
        "large_matrix_gb": round(4 * n * n / 2**30, 1),
    }


def objective(x: np.ndarray, picked: list[int]) -> float:
    return float(np.maximum(x @ x[picked].T, 0).max(axis=1).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--picks", type=int, default=1000)
    parser.add_argument("--neighbours", type=int, default=None)
    parser.add_argument("--large", type=int, default=200_000, help="0: leave it out")
    parser.add_argument("--rivals", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    # First, as only the highest memory use of a process so far can be told.
    extra = large(given.large, given.width, given.picks, 16) if given.large else {}
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
    lines = []
    size = f"facility_location, n={given.rows:,}, k={given.picks:,}"
    rivals = {"literal": literal}
    rivals |= {
        one.__name__: one for one in (apricot, submodlib) if importlib.util.find_spec(one.__name__)
    }
    for name, rival in rivals.items() if given.rivals else ():
        rival(x[:100], 5)  # so that compiling is not counted
        picked, slow = timed(lambda rival=rival: rival(x, given.picks))
        result[f"{name}_seconds"] = round(slow, 2)
        result[f"{name}_objective_share"] = objective(x, picked) / reached
        lines.append(times(size, fast, name, slow, at_least=1 if name == "literal" else 2))
    if extra:
        # All of the process, the pool included.
        peak, matrix = extra["large_peak_gb"], extra["large_matrix_gb"]
        what = f"facility_location, n={given.large:,}, memory"
        lines.append(times(what, peak, "n x n matrix", matrix, at_least=10, unit="GB"))
    result |= {**extra, "lines": lines}
    record(result, given.out)


if __name__ == "__main__":
    main()
