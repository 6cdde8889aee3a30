"""k-means of ours against faiss on the same cores: same iterations from the same starts.

python benchmarks/kmeans.py --out benchmarks/results/kmeans.json
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from benchmarks._record import record, times
from tamis.numerics.kmeans import cluster


def rows(n: int, d: int, seed: int) -> np.ndarray:
    """Unit rows around a few thousand centres."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(2000, d))
    x = centres[rng.integers(len(centres), size=n)] + rng.normal(size=(n, d))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def run(x: np.ndarray, k: int, iterations: int, engine: str, device: str) -> tuple[float, float]:
    start = time.perf_counter()
    found = cluster(
        x,
        k,
        rng=np.random.default_rng(0),
        iterations=iterations,
        tolerance=-1.0,
        engine=engine,
        device=device,
    )
    return time.perf_counter() - start, found.inertia


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--clusters", type=int, default=500)
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--engine", default="numpy", choices=["numpy", "torch"])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    x = rows(given.rows, given.width, seed=0)
    ours, theirs = np.inf, np.inf
    for _ in range(given.repeats):  # in turn, so that a busy minute hits both
        seconds, inertia = run(x, given.clusters, given.iterations, given.engine, given.device)
        ours = min(ours, seconds)
        seconds, reached = run(x, given.clusters, given.iterations, "faiss", "cpu")
        theirs = min(theirs, seconds)
    result = {
        "benchmark": "kmeans",
        "rows": given.rows,
        "width": given.width,
        "clusters": given.clusters,
        "iterations": given.iterations,
        "engine": f"{given.engine}, device {given.device}",
        "seconds": round(ours, 2),
        "faiss_seconds": round(theirs, 2),
        "inertia": inertia,
        "faiss_inertia": reached,
        "lines": [
            times(
                f"k-means, n={given.rows:,}, k={given.clusters}, {given.iterations} iterations",
                ours,
                "faiss",
                theirs,
                at_least=1,
            )
        ],
    }
    record(result, given.out)


if __name__ == "__main__":
    main()
