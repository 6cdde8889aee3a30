"""Near-duplicates of many texts, beside datatrove and data-juicer; in seconds of one core.

python -m benchmarks.minhash --out benchmarks/results/minhash.json
    [--datatrove PYTHON] [--data-juicer PYTHON]

The rivals are run by the Pythons named, as they cannot be installed beside tamis; each gets the
first `--rival-rows` of the rows, which is fair, as every cost but sorting grows with the rows.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks._record import record, times
from tamis import samples
from tamis.scoring.base import Rows
from tamis.scoring.duplicates.minhash import DuplicatesMinhash

THRESHOLD, NGRAM = 0.7, 5
AIMS = {"datatrove": 20, "data-juicer": 10}
RIVALS = Path(__file__).with_name("_minhash_rivals.py")


def texts(n: int, words: int) -> tuple[list[str], np.ndarray]:
    """Texts of about so many words by Zipf's law, a third of them copies of an earlier one with 0
    to 8 words changed; and whether each truly has an earlier one at the threshold."""
    rng = np.random.default_rng(0)
    letters = np.array(list("etaoinshrdlucmfw"))
    lengths = rng.integers(2, 10, 50_000)
    vocabulary = ["".join(letters[rng.integers(0, 16, k)]) for k in lengths]
    made: list[np.ndarray] = []
    truly = np.zeros(n, dtype=bool)
    while len(made) < n:
        base = np.minimum(rng.zipf(1.2, rng.integers(words // 2, 2 * words)), 50_000) - 1
        family = [base]
        for _ in range(rng.geometric(2 / 3) - 1):
            copy = base.copy()
            at = rng.integers(0, len(copy), rng.integers(0, 9))
            copy[at] = rng.integers(0, 50_000, len(at))
            family.append(copy)
        for i, one in enumerate(family[: n - len(made)]):
            truly[len(made)] = any(jaccard(one, other) >= THRESHOLD for other in family[:i])
            made.append(one)
    return [" ".join(vocabulary[w] for w in one) for one in made], truly


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    """Of the runs of words."""
    first, second = ({tuple(x[i : i + NGRAM]) for i in range(len(x) - NGRAM + 1)} for x in (a, b))
    return len(first & second) / len(first | second)


def ours(rows: list[str]) -> tuple[float, np.ndarray, dict[str, Any]]:
    """Seconds, which rows are no representative, and what the scorer tells."""
    turns = [[samples.encode_message({"role": "assistant", "content": t})] for t in rows]
    whole = pa.record_batch({"messages": pa.array(turns, samples.MESSAGES)})

    def batches() -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
        for start in range(0, len(rows), 1024):
            part = whole.slice(start, 1024)
            yield np.arange(start, start + len(part)), part

    scorer = DuplicatesMinhash(threshold=THRESHOLD, ngram=NGRAM)
    start = time.process_time()
    found = scorer.score_pool(Rows(len(rows), {}, batches), advance=lambda _: None)
    seconds = time.process_time() - start
    return seconds, found.columns["representative"] == 0, dict(found.facts)


def rival(name: str, python: str, rows: list[str]) -> tuple[float, np.ndarray]:
    """Seconds, and which rows it drops, in one thread."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "texts.jsonl"
        path.write_text("".join(json.dumps({"text": t}) + "\n" for t in rows), encoding="utf-8")
        single = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": ""}
        done = subprocess.run(
            [python, str(RIVALS), name, str(path), str(THRESHOLD)],
            env={**os.environ, **single},
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr[-2000:]}")
    told = json.loads(done.stdout.strip().splitlines()[-1])
    dropped = np.zeros(len(rows), dtype=bool)
    dropped[told["dropped"]] = True
    return told["seconds"], dropped


def recall(dropped: np.ndarray, truly: np.ndarray) -> float:
    """The share of the true near-copies that is found."""
    return round(float(dropped[truly].mean()), 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--words", type=int, default=100)
    parser.add_argument("--rival-rows", type=int, default=10_000)
    parser.add_argument("--datatrove", metavar="PYTHON")
    parser.add_argument("--data-juicer", metavar="PYTHON")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    rows, truly = texts(given.rows, given.words)
    # Tables that are made once in a process.
    ours(rows[:100])
    seconds, dropped, facts = ours(rows)
    result: dict[str, Any] = {
        "benchmark": "minhash",
        "rows": given.rows,
        "characters": sum(map(len, rows)),
        "core_seconds": round(seconds, 2),
        "recall": recall(dropped, truly),
        "wrong": int((dropped & ~truly).sum()),
        **facts,
    }
    lines: list[dict[str, Any]] = []
    some = min(given.rival_rows, given.rows)
    for name, python in (("datatrove", given.datatrove), ("data-juicer", given.data_juicer)):
        if python is None:
            result[name] = "not run"
            continue
        theirs, dropped = rival(name, python, rows[:some])
        result[name] = {
            "rows": some,
            "core_seconds": round(theirs, 2),
            "recall": recall(dropped, truly[:some]),
            "wrong": int((dropped & ~truly[:some]).sum()),
        }
        each = seconds / given.rows * 1e6, theirs / some * 1e6
        what = f"MinHash, {given.rows:,} rows, a row and core"
        lines.append(times(what, each[0], name, each[1], at_least=AIMS[name], unit="us"))
    record({**result, "lines": lines}, given.out)


if __name__ == "__main__":
    main()
