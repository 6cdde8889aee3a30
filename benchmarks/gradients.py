"""Gradients of rows: whole batches against a backward pass of one row at a time, in one run.

Rows of fewer than 64 tokens. Both give the norm of the gradient of the mean answer NLL and the same
projection of it, by all linear layers of the last block and of all blocks, and must agree to 1e-5
of the norm. They take turns, so that a busy machine slows both. Prints one JSON line.

    python -m benchmarks.gradients [--model FOLDER] [--data ROWS.parquet] [--rounds 3] [--out FILE]
        [--rows 64] [--device auto]
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from benchmarks._record import record, surroundings, timed, times
from benchmarks.lm_scoring import MODEL, SHORT, fitting, generated, read
from tamis.language.forward import Engine, Pass
from tamis.language.gradients import Gradients
from tamis.language.load import load_model
from tamis.numerics.device import resolve
from tamis.recipe import Model

Values = list[tuple[float, np.ndarray]]


def main() -> None:
    """Measure and print."""
    options = arguments()
    if not Path(options.model).is_dir():
        sys.exit(f"there is no model folder {options.model}: give --model, or set TAMIS_BASE_MODEL")
    device = resolve(options.device)
    model = Model(path=options.model, prompt_style="plain")
    engine, plain = Engine(model, device), load_model(model, device)
    texts = read(options.data) if options.data else generated()
    work = [row.conditional for row in fitting(texts, engine, options.rows, below=SHORT)]
    result: dict[str, Any] = {
        "benchmark": "gradients",
        "data": Path(options.data).name if options.data else "random words",
        **surroundings(device),
        "rounds": options.rounds,
        "rows": len(work),
    }
    for name, blocks in (("last_block", 1), ("all_blocks", 0)):
        runner = Gradients(engine, blocks=blocks)
        result[name] = compare(work, plain, runner, options.rounds)
    aim = 2 if device == "cpu" else 5
    lines = [
        times(
            f"gradients, {name}, {len(work)} rows below 64 tokens",
            result[name]["batch_seconds"],
            "backward of a row at a time",
            result[name]["loop_seconds"],
            at_least=aim,
        )
        for name in ("last_block", "all_blocks")
    ]
    record({**result, "lines": lines}, options.out)
    if any(r["largest_difference"] > 1e-5 for r in result.values() if isinstance(r, dict)):
        sys.exit("the values differ by more than 1e-5")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default=MODEL, help="folder of a causal language model")
    parser.add_argument("--data", help="Parquet with instruction and output; default: made up")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="also write the line here")
    return parser.parse_args()


def compare(work: list[Pass], plain: Any, runner: Gradients, rounds: int) -> dict[str, Any]:
    """Seconds of both ways, taking turns; the median of each, and their quotient."""
    loop_seconds, batch_seconds, differences = [], [], []
    one_by_one(work[:2], plain, runner), runner.run(work[:2])
    for _ in range(rounds):
        expected, seconds = timed(lambda: one_by_one(work, plain, runner))
        loop_seconds.append(seconds)
        found, seconds = timed(lambda: runner.run(work))
        batch_seconds.append(seconds)
        differences.append(difference(expected, found))
    loop, ours = statistics.median(loop_seconds), statistics.median(batch_seconds)
    return {
        "loop_seconds": round(loop, 3),
        "batch_seconds": round(ours, 3),
        "layers": len(runner.layers),
        "largest_difference": max(differences),
    }


def one_by_one(work: list[Pass], plain: Any, runner: Gradients) -> Values:
    """The plain way: forward and backward of one row, the gradients whole."""
    backbone = plain.base_model
    plain.requires_grad_(False)
    weights = [backbone.get_parameter(f"{name}.weight").requires_grad_() for name in runner.layers]
    signs = list(runner._signs.values())
    values = []
    for p in work:
        ids = torch.tensor([p.ids], device=plain.device)
        before = torch.from_numpy(p.targets - 1).to(plain.device)
        logits = plain(input_ids=ids, use_cache=False).logits[0, before]
        found = torch.autograd.grad(cross_entropy(logits.float(), ids[0, before + 1]), weights)
        norm = sum((g.square().sum() for g in found), torch.zeros((), device=plain.device)).sqrt()
        vector = sum(out.T @ g @ inner for (out, inner), g in zip(signs, found, strict=True))
        values.append((float(norm), vector.reshape(-1).cpu().numpy()))
    return values


def difference(expected: Values, found: Any) -> float:
    """The largest difference of norms and of vectors, relative to the norm."""
    return max(
        max(abs(a[0] - b[0]), float(np.abs(a[1] - b[1]).max())) / a[0]
        for a, b in zip(expected, found, strict=True)
    )


if __name__ == "__main__":
    main()
