"""Packing against plain padding: tokens trained a second, padding shares, equal losses.

    python -m benchmarks.packing [--model FOLDER] [--data ROWS.parquet] [--device auto]
        [--size NAME] [--rows-per-step 64] [--steps 6] [--rounds 3] [--out FILE]

The rival cuts each step into batches of 16 rows in the order they come, each padded to its longest
row. Ours packs the same steps, `best_fit` and `dynamic`. All three take turns with LoRA on the same
model; tokens are those of rows, not of padding. Since a step is the same rows at the same exact
weights however it is cut, the losses must agree: `loss_gap` is the mean of the paired differences
of all steps and its standard error, and their largest, relative to the loss, must be below 1e-3
(1e-4 on a CPU). Rows: T0's with --data; else generated, as long as T0's. On a GPU, or with --size,
the model has random weights. Prints one JSON line.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np

from benchmarks._record import record, surroundings, times
from benchmarks._tuning import Run, command_line, middle, prepared, timed_run
from tamis.numerics.device import resolve
from tamis.trainer import engine
from tamis.trainer.data import Examples
from tamis.trainer.pack import padded

BATCH = 16
LONGEST = 1024
DEFAULTS = {"cpu": None, "cuda": "half_billion"}


def main() -> None:
    """Measure and print."""
    options = command_line(__doc__, steps=6).parse_args()
    device = resolve(options.device)
    result: dict[str, Any] = {
        "benchmark": "packing",
        **surroundings(device),
        "rows_per_step": options.rows_per_step,
        "steps": options.steps,
        "rounds": options.rounds,
    }
    with TemporaryDirectory() as folder:
        size = options.size or DEFAULTS[device]
        count = (options.steps + 1) * options.rows_per_step
        model, rows, told = prepared(options, size, Path(folder), count, LONGEST)
        base = {"method": "lora", "rows_per_step": options.rows_per_step, "batch_tokens": 16_384}
        runs: dict[str, list[Run]] = {"padded": [], "best_fit": [], "dynamic": []}
        widths = {}
        for _ in range(options.rounds):
            for way, found in runs.items():
                chosen = {**base, "packing": "none" if way == "padded" else way}
                with watched(plain=way == "padded") as widths[way]:
                    found.append(timed_run(rows, model, chosen, device))
    result |= told
    for way, found in runs.items():
        result[way] = {
            "tokens_a_second": round(middle(run.rates for run in found)),
            "padding_share": round(1 - rows.lengths.sum() / sum(widths[way]), 4),
            "batches": len(widths[way]),
        }
    for way in ("best_fit", "dynamic"):
        result[way]["loss_gap"] = gap(runs["padded"][0], runs[way][0])
    lines = [
        times(
            f"{way}, {len(rows)} rows, {told['model']}, {device}",
            1e6 / result[way]["tokens_a_second"],
            f"padding, {BATCH} rows unsorted",
            1e6 / result["padded"]["tokens_a_second"],
            at_least=2,
            unit="s / 1e6 tokens",
        )
        for way in ("best_fit", "dynamic")
    ]
    record({**result, "lines": lines}, options.out)
    worst = max(result[way]["loss_gap"]["largest_relative"] for way in ("best_fit", "dynamic"))
    if worst > (1e-4 if device == "cpu" else 1e-3):
        sys.exit("the losses differ")


@contextmanager
def watched(*, plain: bool) -> Iterator[list[int]]:
    """Cells of every batch that is made in the block; `plain` pads them as the rival does."""
    cells: list[int] = []
    ours = engine.micro_batches

    def made(examples: Examples, rows: np.ndarray, **given: Any) -> list[dict[str, Any]]:
        if plain:
            starts = range(0, len(rows), BATCH)
            batches = [padded(examples, rows[start : start + BATCH]) for start in starts]
        else:
            batches = ours(examples, rows, **given)
        cells.extend(batch["input_ids"].numel() for batch in batches)
        return batches

    with patch.object(engine, "micro_batches", made):
        yield cells


def gap(one: Run, other: Run) -> dict[str, float]:
    """The paired differences of two runs' losses: mean, its standard error, largest."""
    a, b = (np.array([e["nll"] for e in r.report["history"]]) for r in (one, other))
    return {
        "mean": float((b - a).mean()),
        "standard_error": float((b - a).std(ddof=1) / np.sqrt(len(a))),
        "largest_relative": float((np.abs(b - a) / a).max()),
        "steps": len(a),
    }


if __name__ == "__main__":
    main()
