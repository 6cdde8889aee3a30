"""goracs against evaluating exchanges by `ot.emd2`, the way its authors do.

    python benchmarks/goracs.py --out benchmarks/results/goracs.json

Needs POT. The rival evaluates cut x cut exchanges a round; its time is that of a sample of them,
scaled to the rounds that we ran.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import time
from pathlib import Path

import numpy as np

from benchmarks._record import record
from tamis.numerics import exchange
from tamis.selectors import Goracs, Pool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--target", type=int, default=1000)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--picks", type=int, default=200)
    parser.add_argument("--sample", type=int, default=10)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if importlib.util.find_spec("ot") is None:
        print("goracs: skipped, POT is not installed")
        return
    ot = importlib.import_module("ot")  # before the clock starts: it takes seconds
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(40, given.width))
    x = centres[rng.integers(40, size=given.rows)] + rng.normal(size=(given.rows, given.width))
    y = centres[rng.integers(8, size=given.target)] + rng.normal(size=(given.target, given.width))
    pool = Pool(
        given.rows,
        {"v": x.astype(np.float32), "g": rng.gamma(2, size=given.rows)},
        target=Pool(given.target, {"v": y.astype(np.float32)}),
    )
    method = Goracs(embedding="v", gradient="g", weight=0.3)
    start = time.perf_counter()
    found = method.select(pool, given.picks, rng=rng)
    seconds = time.perf_counter() - start

    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, y)]
    distance = np.sqrt(np.maximum(2 - 2 * unit[0] @ unit[1].T, 0))
    problem = exchange.Problem(distance / distance.max(), np.zeros(given.rows))
    a = np.full(given.picks, 1 / given.picks)
    outside = np.setdiff1d(np.arange(given.rows), found.index)
    start = time.perf_counter()
    for row in outside[: given.sample]:
        ot.emd2(a, problem.b, problem.distance[np.append(found.index[1:], row)])
    each = (time.perf_counter() - start) / given.sample
    rounds = int(found.facts["exchanges"]) + 1
    slow = each * rounds * method.cut**2
    result = {
        "benchmark": "goracs",
        "rows": given.rows,
        "target": given.target,
        "picks": given.picks,
        "seconds": round(seconds, 2),
        "solves": found.facts["solves"],
        "exchanges": found.facts["exchanges"],
        "start": found.facts["start"],
        "objective": found.facts["objective"],
        "emd2_seconds_each": round(each, 4),
        "emd2_seconds_scaled": round(slow, 1),
        "ratio": round(slow / seconds, 1),
        "aim": 20,
    }
    record(result, given.out)


if __name__ == "__main__":
    main()
