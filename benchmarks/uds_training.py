"""UDS at 25 % kept against plain training on the same rows: wall time of a candidate row.

    python -m benchmarks.uds_training [--device auto] [--size 17m | 90m | half_billion] [--steps 6]
        [--rounds 3] [--rows-per-step N] [--out FILE]

LoRA on a Llama of random weights, rows of random ids. `even`: all rows have 256 tokens, as when
batches are grouped by length, which is what the authors do; `mixed`: rows as long as those of T0,
with `normalise: length`, or UDS keeps the longest rows, which take the longest to train. Plain and
UDS runs take turns and see the same rows in the same steps; the first step of each is left out, and
the median of all others counts. `scoring` and `training` are the two parts of a UDS row. The aim,
below 0.7, is that of a GPU, where activations are computed again for the gradient and a plain row
costs three forward passes; on a CPU it costs two, and UDS at least 1 + 2 / 4 of them. Prints one
JSON line.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks._record import record, surroundings, within
from benchmarks._tuning import SIZES, Run, generated, middle, random_model, timed_run
from tamis.numerics.device import resolve

KEEP = 0.25
LONGEST = 512  # the positions that UDS projects
_COUNTED = ("candidate_rows", "kept_rows", "candidate_tokens", "kept_tokens")
DEFAULTS = {"cpu": ("17m", 16), "cuda": ("half_billion", 128)}


def main() -> None:
    """Measure and print."""
    options = arguments()
    device = resolve(options.device)
    size = options.size or DEFAULTS[device][0]
    rows_per_step = options.rows_per_step or DEFAULTS[device][1]
    result: dict[str, Any] = {
        "benchmark": "uds_training",
        **surroundings(device),
        "model": f"Llama of random weights, {size}",
        "rows_per_step": rows_per_step,
        "steps": options.steps,
        "rounds": options.rounds,
    }
    lines = []
    with TemporaryDirectory() as folder:
        model = random_model(size, Path(folder))
        for name, normalise in (("even", "none"), ("mixed", "length")):
            count = (options.steps + 1) * rows_per_step
            rows = generated(count, SIZES[size][-1], LONGEST, even=name == "even")
            base = {"method": "lora", "rows_per_step": rows_per_step, "batch_tokens": 16_384}
            rule = {"method": "uds", "keep": KEEP, "options": {"normalise": normalise}}
            ways = {"plain": base, "uds": {**base, "online": rule}}
            runs: dict[str, list[Run]] = {way: [] for way in ways}
            for _ in range(options.rounds):
                for way, chosen in ways.items():
                    runs[way].append(timed_run(rows, model, chosen, device))
            result[name] = told(runs, rows_per_step)
            what = f"a candidate row under UDS, {KEEP:.0%} kept, {name} lengths, {size}, {device}"
            seconds = result[name]["uds_seconds_a_row"], result[name]["plain_seconds_a_row"]
            lines.append(within(what, seconds[0], "a row of training", seconds[1], at_most=0.7))
    record({**result, "lines": lines}, options.out)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--size", choices=SIZES)
    parser.add_argument("--steps", type=int, default=6, help="beside the first")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows-per-step", type=int)
    parser.add_argument("--out", type=Path, help="also write the line here")
    return parser.parse_args()


def told(runs: dict[str, list[Run]], rows_per_step: int) -> dict[str, Any]:
    """Medians over steps and rounds, in seconds a candidate row."""

    def median(values: list[np.ndarray]) -> float:
        return round(middle(values) / rows_per_step, 6)

    uds = runs["uds"]
    picked = uds[0].report["online"]
    return {
        "plain_seconds_a_row": median([r.seconds for r in runs["plain"]]),
        "uds_seconds_a_row": median([r.seconds for r in uds]),
        "uds_scoring_seconds_a_row": median([r.scoring for r in uds]),
        "uds_training_seconds_a_row": median([r.seconds - r.scoring for r in uds]),
        **{name: picked[name] for name in _COUNTED},
    }


if __name__ == "__main__":
    main()
