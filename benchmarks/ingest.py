"""Ingest against `datasets.load_dataset("json")` and `map` doing the same normalisation.

    python -m benchmarks.ingest [--rows 100000] [--repeats 3] [--out benchmarks/results/ingest.json]

Both read the same generated JSON lines of mixed shapes, each time in a new process with a new
folder for its files and caches; imports are not timed, writing what they keep is. The best of the
repeats counts for each. Then the peak memory of ingest at N and at 10 N rows. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks._record import record, times

INGEST = """
import resource, sys, time
from contextlib import nullcontext
from tamis.pipelines.ingest import ingest_source
from tamis.recipe import Source
from tamis.storage.artifact import Store
import pyarrow, zstandard
pyarrow.array([0])  # imports pandas, which datasets imports as well
started = time.perf_counter()
made, _ = ingest_source(Store(sys.argv[2]), "bench", Source(path=sys.argv[1]), say=print,
                        progress=lambda title, total: nullcontext(lambda rows: None))
seconds = time.perf_counter() - started
assert made.facts["accepted"] == made.facts["rows"], made.facts
print(made.facts["rows"], seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""

RIVAL = """
import os, resource, sys, time
os.environ["HF_DATASETS_CACHE"] = sys.argv[2]
os.environ["HF_HUB_OFFLINE"] = "1"
import datasets
from tamis.samples import content_key, encode_message
from tamis.storage.shapes import normalise


datasets.disable_progress_bars()

def same(row, index):
    # what a key of another shape left null in the table is not there for ours either
    normal = normalise({k: v for k, v in row.items() if v is not None}, columnar=True)
    return {
        "content_key": content_key(normal.messages, normal.tools),
        "source": "bench",
        "origin": f"bench.jsonl:{index + 1}",
        "shape": normal.shape,
        "messages": [encode_message(m) for m in normal.messages],
    }

started = time.perf_counter()
rows = datasets.load_dataset("json", data_files=sys.argv[1], split="train")
rows = rows.map(same, with_indices=True,
                remove_columns=[c for c in ("instruction", "output", "response", "prompt",
                                            "completion", "conversations")
                                if c in rows.column_names])
seconds = time.perf_counter() - started
print(len(rows), seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def write_rows(path: Path, count: int, seed: int) -> None:
    """JSON lines of five shapes, about 730 bytes a row."""
    rng = random.Random(seed)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(rng.choices(letters, k=rng.randint(2, 9))) for _ in range(5000)]

    def text(length: int) -> str:
        return " ".join(rng.choices(words, k=length))

    def turn(role: str, length: int) -> dict[str, str]:
        return {"role": role, "content": text(length)}

    shapes = [
        lambda: {"instruction": text(20), "input": text(10), "output": text(60)},
        lambda: {"prompt": text(20), "completion": text(70)},
        lambda: {"instruction": text(20), "context": text(40), "response": text(50)},
        lambda: {
            "messages": [
                turn("system", 8),
                *(turn(role, length) for role, length in 2 * [("user", 20), ("assistant", 40)]),
            ]
        },
        lambda: {
            "conversations": [
                {"from": "human", "value": text(20)},
                {"from": "gpt", "value": text(60)},
            ]
        },
    ]
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            row = shapes[number % 5]()
            file.write(json.dumps({**row, "number": number, "score": rng.random()}) + "\n")


def measure(program: str, rows: Path) -> tuple[int, float, int]:
    """Rows, seconds and peak bytes of a program in a new process."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-c", program, str(rows), folder],
            check=True,
            capture_output=True,
            text=True,
        )
    count, seconds, peak = done.stdout.split()[-3:]
    return int(count), float(seconds), int(float(peak))


def main() -> None:
    """Measure, print and, with `--out`, record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows, tenfold = Path(folder, "bench.jsonl"), Path(folder, "tenfold.jsonl")
        write_rows(rows, options.rows, seed=1)
        write_rows(tenfold, 10 * options.rows, seed=2)
        ours, theirs = [], []
        for _ in range(options.repeats):  # in turn, so that a busy minute hits both
            ours.append(measure(INGEST, rows))
            theirs.append(measure(RIVAL, rows))
        large = measure(INGEST, tenfold)
    own = options.rows / min(seconds for _, seconds, _ in ours)
    rival = options.rows / min(seconds for _, seconds, _ in theirs)
    result = {
        "benchmark": "ingest",
        "rows": options.rows,
        "repeats": options.repeats,
        "ingest_rows_per_second": round(own),
        "datasets_rows_per_second": round(rival),
        "ingest_peak_bytes": ours[0][2],
        "datasets_peak_bytes": theirs[0][2],
        "ingest_peak_bytes_at_tenfold_rows": large[2],
        "ingest_rows_per_second_at_tenfold_rows": round(10 * options.rows / large[1]),
        "bytes_more_per_row_more": round((large[2] - ours[0][2]) / (9 * options.rows), 2),
        "lines": [
            times(
                f"ingest, {options.rows:,} rows of JSONL",
                options.rows / own,
                "datasets, load and map",
                options.rows / rival,
                at_least=3,
            )
        ],
    }
    record(result, options.out)


if __name__ == "__main__":
    main()
