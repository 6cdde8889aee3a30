"""Peak memory and speed of LoRA on a model of half a billion parameters, ours and TRL's SFTTrainer.

    python -m benchmarks.memory [--device auto] [--size half_billion] [--rows 24] [--steps 2]
        [--tokens N] [--out FILE]

A Llama of random weights, rows of random ids as long as those of T0. Each trainer runs in a process
of its own, same rows, same LoRA, as in `benchmarks.throughput`. `peak` is the most memory of the
process less what it held when the trainer was still to be made (the libraries are loaded then, the
model is not); on a GPU the most that was allocated there. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from benchmarks._record import record, surroundings, times, within
from benchmarks._tuning import SIZES, generated, random_model, timed_run
from benchmarks.throughput import LONGEST, trl_rates
from tamis.numerics.device import resolve
from tamis.recipe import Model
from tamis.trainer.data import Examples

TOKENS = {"cpu": 1024, "cuda": 8192}


def main() -> None:
    """Measure and print."""
    options = arguments()
    device = resolve(options.device)
    tokens = options.tokens or TOKENS[device]
    if options.trainer is not None:
        told = alone(options, Model(path=options.model, prompt_style="chat"), device, tokens)
        print(json.dumps(told))
        return
    result: dict[str, Any] = {
        "benchmark": "memory",
        **surroundings(device),
        "model": f"Llama of random weights, {options.size}",
        "rows_per_step": options.rows,
        "steps": options.steps,
        "tokens_a_forward": tokens,
    }
    with TemporaryDirectory() as folder:
        random_model(options.size, Path(folder))
        for trainer in ("trl", "tamis"):
            command = [sys.executable, "-m", "benchmarks.memory", *sys.argv[1:]]
            command += ["--trainer", trainer, "--model", folder]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            result[trainer] = json.loads(done.stdout.splitlines()[-1])
    ours, theirs = result["tamis"], result["trl"]
    what = f"LoRA, {options.size}, {device}"
    lines = [
        within(f"peak memory, {what}", ours["peak"], "TRL SFTTrainer, packing", theirs["peak"],
               at_most=1, unit="GB"),
        times(f"training, {what}", 1e6 / ours["tokens_a_second"], "TRL SFTTrainer, packing",
              1e6 / theirs["tokens_a_second"], at_least=1, unit="s / 1e6 tokens"),
    ]  # fmt: skip
    record({**result, "lines": lines}, options.out)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--size", choices=SIZES, default="half_billion")
    parser.add_argument("--rows", type=int, default=24, help="of a step")
    parser.add_argument("--steps", type=int, default=2, help="beside the first")
    parser.add_argument("--tokens", type=int, help="tokens of a forward pass")
    parser.add_argument("--trainer", choices=("trl", "tamis"), help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help="also write the line here")
    return parser.parse_args()


def alone(options: argparse.Namespace, model: Model, device: str, tokens: int) -> dict[str, Any]:
    """GB at the peak above what the libraries take, and tokens a second, of one trainer."""
    import peft  # noqa: F401
    import trl  # noqa: F401

    rows = generated((options.steps + 1) * options.rows, SIZES[options.size][-1], LONGEST)
    before = used(device)
    rates = rates_of(options, rows, model, device, tokens)
    return {
        "peak": round((used(device) - before) / 1e9, 3),
        "tokens_a_second": round(float(np.median(rates)), 2),
    }


def rates_of(
    options: argparse.Namespace, rows: Examples, model: Model, device: str, tokens: int
) -> np.ndarray:
    """Tokens a second of every step but the first."""
    if options.trainer == "trl":
        return trl_rates(rows, model, device, tokens, options.steps, options.rows)
    chosen = {"method": "lora", "rows_per_step": options.rows, "batch_tokens": tokens}
    return timed_run(rows, model, chosen, device).rates


def used(device: str) -> int:
    """The most bytes so far."""
    if device == "cuda":
        return int(torch.cuda.max_memory_allocated())
    # Not ru_maxrss: a process inherits that of the one that started it.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


if __name__ == "__main__":
    main()
