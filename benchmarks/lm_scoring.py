"""Language-model scoring: the engine against a loop over one row at a time, in one run.

Both are given the same token sequences of the same rows, as `ifd` needs them (prompt and answer,
then the answer alone) and as `nll` does (the first only), and must give the same mean
log-probabilities to 1e-5 (absolute below 1, relative above). They take turns, a shard of 1,024 rows
each, so that a busy machine slows both. Measured are those of `--rows` rows that are below 64
tokens, and a random `--sample` of the rows of all lengths. `more`: seconds of everything a pass can
give (log-probabilities, entropy, EL2N, states) over seconds of log-probabilities alone, both of
prompt and answer and the answer alone; at most 1.2 is aimed at. Prints one JSON line.

    python -m benchmarks.lm_scoring [--model FOLDER] [--data ROWS.parquet] [--rows 512]
        [--sample 128] [--out FILE]
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from benchmarks._record import record, surroundings, timed, times, within
from tamis.language.forward import LOGPROB, Engine, Pass
from tamis.language.load import load_model
from tamis.language.network import Part
from tamis.recipe import Model
from tamis.scoring import answers

ROOT = Path(__file__).resolve().parent.parent
MODEL = os.environ.get("TAMIS_BASE_MODEL", str(ROOT.parent / "shared" / "models" / "base-17m"))
SHORT = 64
BLOCK = 1024  # what a shard holds
PARTS: frozenset[Part] = frozenset({"entropy", "el2n", "hidden_mean", "hidden_last"})
# name -> at least so many times as fast as the loop
AIMS = {"short": 3.0, "all": 1.2}
WORDS = (
    "the",
    "a",
    "of",
    "small",
    "river",
    "stone",
    "seven",
    "green",
    "answer",
    "why",
    "does",
    "it",
)


def main() -> None:
    """Measure and print."""
    options = arguments()
    if not Path(options.model).is_dir():
        sys.exit(f"there is no model folder {options.model}: give --model, or set TAMIS_BASE_MODEL")
    model = Model(path=options.model, prompt_style="plain")
    engine = Engine(model, "cpu")
    plain = load_model(model, "cpu")
    texts = read(options.data) if options.data else generated()
    every = fitting(texts, engine, options.rows)
    short = [row for row in every if len(row.conditional.ids) < SHORT]
    result: dict[str, Any] = {
        "benchmark": "lm_scoring",
        "data": Path(options.data).name if options.data else "random words",
        **surroundings(),
        "drawn": len(every),
    }
    for size, rows in (("short", short), ("all", every[: options.sample])):
        for signal in ("ifd", "nll"):
            result[f"{size}_{signal}"] = {
                "rows": len(rows),
                "tokens_a_row": round(statistics.mean(len(r.conditional.ids) for r in rows), 1),
                "answer_tokens_a_row": round(
                    statistics.mean(len(r.conditional.targets) for r in rows), 1
                ),
                **compare(blocks(rows, alone=signal == "ifd"), plain, engine),
            }
        result[f"{size}_more"] = more(blocks(rows, alone=True), engine)
    record({**result, "lines": lines(result)}, options.out)
    measured = [r for r in result.values() if isinstance(r, dict)]
    if any(r["largest_difference"] > 1e-5 for r in measured):
        sys.exit("the values differ by more than 1e-5")


def lines(result: dict[str, Any]) -> list[dict[str, Any]]:
    """What the table shows: against the loop, and all signals against log-probabilities alone."""
    found = []
    for size, aim in AIMS.items():
        for signal in ("ifd", "nll"):
            one = result[f"{size}_{signal}"]
            what = f"{signal}, {one['rows']:,} rows of {one['tokens_a_row']:g} tokens"
            seconds = one["engine_seconds"], one["loop_seconds"]
            found.append(times(what, seconds[0], "batch-of-one loop", seconds[1], at_least=aim))
        whole = result[f"{size}_more"]
        what = f"all signals of one pass, {size} rows"
        seconds = whole["all_seconds"], whole["logprob_seconds"]
        found.append(within(what, seconds[0], "log-probabilities", seconds[1], at_most=1.2))
    return found


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default=MODEL, help="folder of a causal language model")
    parser.add_argument("--data", help="Parquet with instruction and output; default: made up")
    parser.add_argument("--rows", type=int, default=512, help="rows drawn")
    parser.add_argument("--sample", type=int, default=128, help="those of all lengths")
    parser.add_argument("--out", type=Path, help="also write the line here")
    return parser.parse_args()


def read(path: str) -> list[tuple[str, str]]:
    """Instruction and answer of each row, in a fixed random order."""
    columns = pq.read_table(path, columns=["instruction", "output"]).to_pydict()
    pairs = list(zip(columns["instruction"], columns["output"], strict=True))
    return [pairs[i] for i in np.random.default_rng(0).permutation(len(pairs))]


def generated() -> list[tuple[str, str]]:
    """Random words: a third to a half of a row is its answer."""
    rng = np.random.default_rng(0)
    made = []
    for _ in range(20_000):
        total = int(rng.choice([rng.integers(6, 50), rng.integers(120, 240)]))
        answer = int(total * rng.uniform(0.3, 0.5)) + 1
        text = rng.choice(WORDS, total + 1)
        made.append((" ".join(text[:-answer]), " ".join(text[-answer:])))
    return made


def fitting(
    texts: list[tuple[str, str]], engine: Engine, count: int, *, below: int | None = None
) -> list[answers.Answer]:
    """The first `count` rows of fewer than `below` tokens that have an answer left once they are
    cut to the model's length."""
    found: list[answers.Answer] = []
    for question, answer in texts:
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        row = answers.passes(messages, None, engine, alone=True)
        if isinstance(row, answers.Answer) and len(row.conditional.ids) < (below or math.inf):
            found.append(row)
        if len(found) == count:
            return found
    sys.exit(f"only {len(found)} rows with an answer, {count} needed")


def blocks(rows: list[answers.Answer], *, alone: bool) -> list[list[Pass]]:
    """The passes of the rows, a block of rows each; with `alone` those of the answers too."""
    return [
        [p for r in rows[i : i + BLOCK] for p in (r.conditional, *(r.alone if alone else ()))]
        for i in range(0, len(rows), BLOCK)
    ]


def compare(work: list[list[Pass]], plain: Any, engine: Engine) -> dict[str, Any]:
    """Seconds of both ways, which take turns from block to block."""
    loop = ours = apart = 0.0
    one_by_one(work[0][:4], plain), engine.logprobs(work[0][:4])
    for block in work:
        expected, seconds = timed(lambda block=block: one_by_one(block, plain))
        loop += seconds
        found, seconds = timed(lambda block=block: engine.logprobs(block))
        ours += seconds
        apart = max(apart, difference(expected, found))
    return {
        "loop_seconds": round(loop, 3),
        "engine_seconds": round(ours, 3),
        "engine_tokens_per_second": round(sum(p.width for block in work for p in block) / ours),
        "largest_difference": apart,
    }


def more(work: list[list[Pass]], engine: Engine) -> dict[str, Any]:
    """Seconds of log-probabilities alone and of all parts, which take turns."""
    alone = everything = apart = 0.0
    engine.run(work[0][:64], PARTS)
    for block in work:
        expected, seconds = timed(lambda block=block: engine.run(block, LOGPROB))
        alone += seconds
        found, seconds = timed(lambda block=block: engine.run(block, PARTS))
        everything += seconds
        apart = max(apart, difference(*([v["logprob"] for v in vs] for vs in (expected, found))))
    return {
        "logprob_seconds": round(alone, 3),
        "all_seconds": round(everything, 3),
        "largest_difference": apart,
    }


def difference(expected: list[np.ndarray], found: list[np.ndarray]) -> float:
    """The largest difference of two mean log-probabilities, relative where they are above 1."""
    a, b = (np.array([v.mean() for v in values]) for values in (expected, found))
    return float((np.abs(a - b) / np.maximum(np.abs(a), 1)).max())


def one_by_one(work: list[Pass], plain: Any) -> list[np.ndarray]:
    """The plain way: one sequence, all its logits, log-softmax, the wanted tokens."""
    values = []
    with torch.inference_mode():
        for p in work:
            ids = torch.tensor([p.ids])
            table = torch.log_softmax(plain(input_ids=ids, use_cache=False).logits[0].float(), -1)
            targets = torch.from_numpy(p.targets)
            values.append(table[targets - 1, ids[0, targets]].double().numpy())
    return values


if __name__ == "__main__":
    main()
