"""mig on a million rows, and against the dense definition on a subsample: same order, how much
faster.

    python benchmarks/mig.py --out benchmarks/results/mig.json
"""

from __future__ import annotations

import argparse
import resource
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks._record import record, timed, times, within
from tamis.selectors import Mig, Pool, Ragged


def synthetic(n: int, labels: int, seed: int) -> Pool:
    """About three labels a row, some far more common than others; 64-dimensional label vectors."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(labels // 4, 64))
    embedding = centres[rng.integers(len(centres), size=labels)]
    embedding = embedding + 0.3 * rng.normal(size=embedding.shape)
    sizes = rng.integers(1, 6, size=n)
    indptr = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    values = (labels * rng.random(indptr[-1]) ** 2).astype(np.int64)
    described = Pool(
        labels,
        {"name": np.arange(labels).astype(str), "embedding": embedding.astype(np.float32)},
    )
    columns = {"labels": Ragged(indptr, values), "score": rng.uniform(1, 36, size=n)}
    return Pool(n, columns, labels=described)


def dense(pool: Pool, k: int, threshold: float) -> list[int]:
    """The definition as matrices: all gains at each pick."""
    used, column = np.unique(pool.columns["labels"].values, return_inverse=True)
    embedding = pool.labels.columns["embedding"][used].astype(np.float64)
    unit = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    graph = unit @ unit.T
    graph[graph < threshold] = 0
    np.fill_diagonal(graph, 1)
    raw = np.zeros((pool.n, len(used)))
    rows = np.repeat(np.arange(pool.n), np.diff(pool.columns["labels"].indptr))
    raw[rows, column] = pool.columns["score"][rows]
    spread = raw @ (graph / graph.sum(axis=0))
    amount = np.zeros(len(used))
    left = np.ones(pool.n, dtype=bool)
    order = []
    for _ in range(k):
        gains = spread @ (0.8 * (amount + 1e-6) ** -0.2)
        gains[~left] = -1
        order.append(int(gains.argmax()))
        left[order[-1]] = False
        amount += spread[order[-1]]
    return order


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--labels", type=int, default=5000)
    parser.add_argument("--picks", type=int, default=50_000)
    parser.add_argument("--dense-rows", type=int, default=20_000)
    parser.add_argument("--dense-picks", type=int, default=500)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    method = Mig(labels="labels", score="score")
    rng = np.random.default_rng(0)
    with threadpool_limits(1):
        pool = synthetic(given.rows, given.labels, seed=0)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found, seconds = timed(lambda: method.select(pool, given.picks, rng=rng))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        small = synthetic(given.dense_rows, given.labels, seed=1)
        ours, fast = timed(lambda: method.select(small, given.dense_picks, rng=rng))
        theirs, slow = timed(lambda: dense(small, given.dense_picks, method.threshold))
    if ours.index.tolist() != theirs:
        raise SystemExit("the lazy and the dense order differ")
    result = {
        "benchmark": "mig",
        "rows": given.rows,
        "picks": len(found.index),
        "seconds": round(seconds, 2),
        "peak_gb": round(peak / 2**20, 2),
        "pool_gb": round(before / 2**20, 2),
        "mean_degree": round(found.facts["mean_degree"], 2),
        "dense_rows": given.dense_rows,
        "dense_picks": given.dense_picks,
        "ours_seconds": round(fast, 3),
        "dense_seconds": round(slow, 2),
        "threads": 1,
        "lines": [
            within(f"mig, n={given.rows:,}, k={given.picks:,}", seconds, "limit", 15, at_most=1),
            within("mig, peak memory", peak / 2**20, "limit", 1, at_most=1, unit="GB"),
            times(f"mig, n={given.dense_rows:,}", fast, "dense numpy", slow, at_least=200),
        ],
    }
    record(result, given.out)


if __name__ == "__main__":
    main()
