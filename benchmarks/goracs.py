"""goracs against the same search with `ot.emd2` for every exchange, the way its authors do.

    python benchmarks/goracs.py --out benchmarks/results/goracs.json

Needs POT. The rival begins at our start, which it gets for nothing, ranks rows by the corrected
scores, evaluates exchanges pair after pair and takes the first that is better, until none is or
its time is over (then the ratio is a lower bound). Our time is all of `select`.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import itertools
import time
from pathlib import Path

import numpy as np

from benchmarks._record import record, times
from tamis.numerics import exchange
from tamis.numerics.blocked import unit_rows
from tamis.numerics.exchange_start import start
from tamis.selectors import Goracs, Pool


def synthetic(n: int, m: int, d: int) -> Pool:
    """A pool around forty centres, a target around eight of them, gradient norms of a gamma."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(40, d))
    x = centres[rng.integers(40, size=n)] + rng.normal(size=(n, d))
    y = centres[rng.integers(8, size=m)] + rng.normal(size=(m, d))
    columns = {"v": x.astype(np.float32), "g": rng.gamma(2, size=n)}
    return Pool(n, columns, target=Pool(m, {"v": y.astype(np.float32)}))


def problem_of(pool: Pool, weight: float) -> exchange.Problem:
    """Distances over the longest, and the weighted norms over the largest."""
    x, y = unit_rows(pool.columns["v"]), unit_rows(pool.target.columns["v"])
    square = 2 - 2 * x.astype(np.float64) @ y.T.astype(np.float64)
    distance = np.sqrt(np.maximum(square, 0))
    norm = pool.columns["g"]
    return exchange.Problem(distance / distance.max(), weight * norm / norm.max())


def rival(problem: exchange.Problem, rows: np.ndarray, method: Goracs, most: float):
    """The objective, seconds, evaluated exchanges, and whether the search came to its end."""
    ot = importlib.import_module("ot")
    a = np.full(len(rows), 1 / len(rows))
    begun, swaps = time.perf_counter(), 0

    def value(group: np.ndarray) -> float:
        cost = ot.emd2(a, problem.b, problem.distance[group], numItermax=10_000_000)
        return float(cost - problem.bonus[group].mean())

    now = value(rows)
    for _ in range(method.exchanges):
        score = exchange.scores(problem, rows, problem.solve(rows))
        outside = np.setdiff1d(np.arange(len(score)), rows)
        outer = outside[np.argsort(score[outside], kind="stable")[: method.cut]]
        inner = np.argsort(-score[rows], kind="stable")[: method.cut]
        for i, o in itertools.product(inner.tolist(), outer.tolist()):
            changed = exchange.exchanged(rows, ((i, o),))
            new, swaps = value(changed), swaps + 1
            if new < now - 1e-12:
                rows, now = changed, new
                break
            if time.perf_counter() - begun > most:
                return now, time.perf_counter() - begun, swaps, False
        else:
            break
    return now, time.perf_counter() - begun, swaps, True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--target", type=int, default=1000)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--picks", type=int, default=200)
    parser.add_argument("--rival-seconds", type=float, default=240)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if importlib.util.find_spec("ot") is None:
        print("goracs: skipped, POT is not installed")
        return
    method = Goracs(embedding="v", gradient="g", weight=0.3)
    rng = np.random.default_rng(0)
    # Imports take seconds: before the clock starts.
    method.select(synthetic(50, 20, given.width), 5, rng=rng)
    pool = synthetic(given.rows, given.target, given.width)
    begun = time.perf_counter()
    found = method.select(pool, given.picks, rng=rng)
    seconds = time.perf_counter() - begun
    problem = problem_of(pool, method.weight)
    objective, slow, swaps, ended = rival(
        problem, start(problem, given.picks), method, given.rival_seconds
    )
    result = {
        "benchmark": "goracs",
        "rows": given.rows,
        "target": given.target,
        "picks": given.picks,
        "seconds": round(seconds, 2),
        "solves": found.facts["solves"],
        "start": found.facts["start"],
        "objective": found.facts["objective"],
        "emd2_seconds": round(slow, 1),
        "emd2_swaps": swaps,
        "emd2_ended": ended,
        "emd2_objective": objective,
        "lines": [
            times(
                f"goracs, {given.rows:,} x {given.target:,}, k={given.picks}",
                seconds,
                "swaps by ot.emd2" + ("" if ended else ", cut off"),
                slow,
                at_least=20,
            )
        ],
    }
    record(result, given.out)


if __name__ == "__main__":
    main()
