"""What each tuning method costs and what it reaches: the table of docs/trainer.md.

    python -m evidence.trainer_methods --pool t0_pool.parquet --eval t0_eval.parquet \\
        --model base-17m --out results.json --docs docs/trainer.md

Pool and evaluation have the columns `id`, `instruction`, `output`, `family`. Every method trains on
the same rows in the same steps. Its rate is the best of three around a guess (of two where it is
not one of the most used), by the loss on rows of the pool that no run trains on, after runs of a
third of the steps; the evaluation rows are looked at once, after the run at that rate. Each method
has a process of its own, so that its peak of memory is its own. Held-out: -log p in nats a token,
and exact match of greedy answers; methods with virtual tokens are asked for the former alone.

A method is written to `--out` as soon as it is measured, and one that is there is not run again.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tamis.errors import TamisError
from tamis.recipe import Model, Tune
from tamis.samples import MESSAGES, encode_message
from tamis.trainer import methods

FAMILIES = ("rotten_tomatoes", "glue_qqp", "commonsense_qa", "paws")
# Blocks of the recipe, by the name in the table. Ranks and intervals that fit a model of millions.
CASES: dict[str, dict[str, Any]] = {
    "full": {"method": "full"},
    "lora": {"method": "lora"},
    "lisa": {"method": "lisa", "options": {"interval": 5}},
    "lift": {"method": "lift", "options": {"rank": 16, "filter_rank": 32, "interval": 10}},
    "lora, init: eva": {"method": "lora", "options": {"init": "eva"}},
    "s2ft": {"method": "s2ft", "options": {"down_proj": 0.1}},
    "spiel": {"method": "spiel", "options": {"density": 0.05, "interval": 5, "accumulation": 2}},
    "freeze_bottom": {"method": "freeze_bottom", "options": {"layers": 4}},
    "trainable_tokens": {"method": "trainable_tokens", "options": {"ids": list(range(8))}},
}
# Defaults are for billions of parameters; a guess of what tens of millions take.
GUESS = {"full": 50.0, "adapter": 20.0}
OWN_GUESS = {
    "prompt": 5.0,
    "prefix": 5.0,
    "p_tuning": 5.0,
    "cpt": 5.0,
    "neuroada": 1.0,
    "spiel": 500.0,
}
TRIED = (0.5, 2.0)
TRIED_LONGER = dict.fromkeys(("full", "lora", "lisa", "lift"), (0.25, 1.0, 4.0))
COLUMNS = {
    "method": "method",
    "rate": "rate",
    "trainable %": "trainable",
    "peak MB": "peak_mb",
    "tokens/s": "tokens_per_second",
    "held-out NLL": "nll",
    "exact match": "exact_match",
}
SETTINGS = ("families", "rows", "check_rows", "eval_rows", "steps", "rows_per_step", "seed")
BEGIN, END = "<!-- evidence.trainer_methods -->", "<!-- end -->"


def main() -> None:
    """Measure what is not measured yet, and write the table."""
    given = _arguments()
    if given.one:
        print(json.dumps(measure(given.one, given)))
        return
    cases = given.methods or ["untuned", *all_cases()]
    result = _begun(given)
    for name in cases:
        if name not in result["methods"]:
            line = _alone(name)
            if line is None:
                continue
            result["methods"][name] = line
            _write(given.out, json.dumps(result, indent=1) + "\n")
        print("  ".join(_told(result["methods"][name].get(key)) for key in COLUMNS.values()))
    if given.docs is not None:
        put(given.docs, markdown(result))


def all_cases() -> dict[str, dict[str, Any]]:
    """Every method of the registry, and further forms of some."""
    others = {n: {"method": n, "options": dict(methods.get(n).example)} for n in methods.names()}
    return CASES | {n: block for n, block in others.items() if n not in CASES}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pool", type=Path, required=True)
    parser.add_argument("--eval", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--docs", type=Path, help="a page that holds the table")
    parser.add_argument("--families", nargs="*", default=list(FAMILIES))
    parser.add_argument("--methods", nargs="*", help="default: all")
    parser.add_argument("--rows", type=int, default=1000, help="of the pool, to train on")
    parser.add_argument("--check-rows", type=int, default=40, help="of the pool, for the rate")
    parser.add_argument("--eval-rows", type=int, default=60)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rows-per-step", type=int, default=16)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser.parse_args()


def _begun(given: argparse.Namespace) -> dict[str, Any]:
    """What is measured already, of the same settings."""
    settings = {name: getattr(given, name) for name in SETTINGS}
    if given.out.is_file():
        found: dict[str, Any] = json.loads(given.out.read_text(encoding="utf-8"))
        if found["settings"] != settings:
            sys.exit(f"{given.out} is of other settings: {found['settings']}; name another file")
        return found
    threads = int(os.environ.get("OMP_NUM_THREADS", 0)) or os.cpu_count()
    return {"settings": settings, "device": given.device, "threads": threads, "methods": {}}


def _alone(name: str) -> dict[str, Any] | None:
    """A line of the table, measured in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "evidence.trainer_methods", *sys.argv[1:], "--one", name],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        print(f"{name}: failed, see above", file=sys.stderr)
        return None
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def measure(name: str, given: argparse.Namespace) -> dict[str, Any]:
    """Find a rate, tune by a method at it, or not, and evaluate; one line of the table."""
    heldout = Asked(rows(given.eval, given, 0, given.eval_rows), generate=16)
    if name == "untuned":
        return {"method": name, **scored(_base(given), heldout, given.device)}
    tried = tries(name, given)
    rate = min(tried, key=lambda t: math.inf if t[1] is None else t[1])[0]
    found = tuned(all_cases()[name], given, rate, given.steps, heldout)
    return {"method": name, "tried": tried, **found}


def tries(name: str, given: argparse.Namespace) -> list[tuple[float, float | None]]:
    """Rates, and the loss each leads to on rows of the pool that no run trains on; None where it
    diverged."""
    block = all_cases()[name]
    kind = methods.get(block["method"])
    guess = methods.build(block["method"], block.get("options")).learning_rate
    guess *= OWN_GUESS.get(block["method"], GUESS[kind.kind])
    check = Asked(rows(given.pool, given, given.rows, given.check_rows), generate=0)
    tried: list[tuple[float, float | None]] = []
    for rate in (float(f"{guess * factor:.3g}") for factor in TRIED_LONGER.get(name, TRIED)):
        try:
            tried.append((rate, tuned(block, given, rate, given.steps // 3, check)["nll"]))
        except TamisError as error:
            print(f"{name} at {rate}: {error}", file=sys.stderr)
            tried.append((rate, None))
    return tried


class Asked:
    """Rows to evaluate on, and how many tokens to generate."""

    def __init__(self, table: pa.Table, generate: int):
        self.table, self.generate = table, generate


def tuned(
    block: dict[str, Any], given: argparse.Namespace, rate: float, steps: int, asked: Asked
) -> dict[str, Any]:
    """The figures of a run of so many steps."""
    from tamis.trainer.tune import tune

    kind = methods.get(block["method"])
    options = Tune(
        **block,
        epochs=given.steps * given.rows_per_step / given.rows,
        max_steps=steps,
        rows_per_step=given.rows_per_step,
        packing="best_fit" if kind.packable else "none",
        learning_rate=rate,
        save_every=steps,
    )
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        report = tune(
            rows(given.pool, given, 0, given.rows),
            _base(given),
            options,
            seed=given.seed,
            device=given.device,
            folder=Path(folder),
            say=lambda line: print(line, file=sys.stderr),
            progress=clock,
        )
        place = Path(folder) / "model"
        figures = (
            scored(_left(given, place), asked, given.device)
            if kind.packable
            else {"nll": _nll_behind_virtual_tokens(_base(given), place, asked.table)}
        )
    return {
        "rate": report["learning_rate"],
        "trainable": 100 * report["trainable_share"],
        "peak_mb": report["peak_memory_bytes"] / 2**20,
        "tokens_per_second": report["tokens_seen"] / clock.seconds,
        **figures,
    }


class Clock:
    """Progress that shows nothing and counts the seconds of the block: of the processor on a CPU,
    where others may be at work too."""

    seconds = 0.0

    @contextmanager
    def __call__(self, title: str, total: int) -> Iterator[Callable[[int], None]]:
        start = time.process_time()
        yield lambda rows: None
        self.seconds = time.process_time() - start


def _base(given: argparse.Namespace) -> Model:
    return Model(path=str(given.model), prompt_style="chat")


def _left(given: argparse.Namespace, place: Path) -> Model:
    """The tuned model in a folder."""
    adapter = (place / "adapter_config.json").is_file()
    return _base(given).model_copy(update={"adapter" if adapter else "path": str(place)})


def rows(path: Path, given: argparse.Namespace, first: int, count: int) -> pa.Table:
    """Some rows of these families in a random order, as trainer and evaluation take them."""
    read = pq.read_table(path)
    read = read.filter(pc.is_in(read.column("family"), pa.array(given.families)))
    order = np.random.default_rng(given.seed).permutation(read.num_rows)
    read = read.take(np.sort(order[first : first + count]))
    pairs = zip(read["instruction"].to_pylist(), read["output"].to_pylist(), strict=True)
    messages = [
        [
            encode_message({"role": "user", "content": asked}),
            encode_message({"role": "assistant", "content": answer}),
        ]
        for asked, answer in pairs
    ]
    nothing = [None] * read.num_rows
    return pa.table(
        {
            "row_id": read["id"],
            "id": read["id"],
            "group": read["family"],
            "messages": pa.array(messages, MESSAGES),
            "tools": pa.array(nothing, pa.string()),
            "weight": pa.array(nothing, pa.float32()),
        }
    )


def scored(model: Model, asked: Asked, device: str) -> dict[str, Any]:
    """NLL, and exact match where something is generated."""
    from tamis.trainer.evaluate import evaluate, metrics

    table = evaluate(
        asked.table, model, max_new_tokens=asked.generate, device=device, progress=Clock()
    )
    found = metrics(table, resamples=100, seed=0)
    return {name: found[name]["value"] for name in ("nll", "exact_match") if name in found}


def _nll_behind_virtual_tokens(base: Model, folder: Path, heldout: pa.Table) -> float:
    """By plain peft, one row a pass."""
    import torch
    from peft import PeftModel

    from tamis.language.load import load_model, load_tokenizer, max_length
    from tamis.trainer.data import prepare

    limit = max_length(base)
    found = prepare(heldout, load_tokenizer(base), prompt_style=base.prompt_style, max_length=limit)
    model = PeftModel.from_pretrained(load_model(base, "cpu"), folder).eval()
    total, tokens = 0.0, 0
    for i in range(len(found)):
        ids, labels = (torch.from_numpy(a)[None] for a in found.row(i))
        with torch.inference_mode():
            # Virtual tokens give logits of their own, before those of the row.
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        logp = torch.log_softmax(logits[0, -ids.shape[1] : -1].float(), dim=-1)
        at = (labels[0, 1:] != -100).nonzero()[:, 0]
        total -= float(logp[at, labels[0, 1:][at]].double().sum())
        tokens += len(at)
    return total / tokens


def markdown(result: dict[str, Any]) -> str:
    """The table, and how it was made."""
    made = result["settings"]
    said = (
        f"{made['steps']} steps of {made['rows_per_step']} rows, {made['rows']:,} rows of the T0 "
        f"families {', '.join(made['families'])}; base-17m on {result['threads']} thread of a CPU, "
        f"float32, cosine. A run of this size ranks costs, and says little of what a method "
        f"reaches in a long one. Tokens/s are those of processor seconds, the peak is that of the "
        f"process (libraries included; the model in float32 is 66 MB). The rate is the best of "
        f"two or three, a factor of four apart, on {made['check_rows']} other rows of the pool "
        f"after a third of the steps; NLL and exact match are those of {made['eval_rows']} rows of "
        "t0_eval."
    )
    edge = [n for n, line in result["methods"].items() if _at_the_edge(line)]
    if edge:
        said += f" The highest rate tried was the best for {', '.join(edge)}: more may be reached."
    rest = [name for name in all_cases() if name not in result["methods"]]
    if rest:
        said += f" Not measured yet: {', '.join(rest)}."
    said = textwrap.fill(said, 138)
    head = "| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS) + "\n"
    lines = [
        "| " + " | ".join(_told(line.get(k)) for k in COLUMNS.values()) + " |"
        for line in result["methods"].values()
    ]
    return f"{said}\n\n{head}" + "\n".join(lines) + "\n"


def _at_the_edge(line: dict[str, Any]) -> bool:
    tried = line.get("tried")
    return tried is not None and line["rate"] == max(rate for rate, _ in tried)


def put(page: Path, table: str) -> None:
    """Write the table between its marks in a page."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    _write(page, f"{before}{BEGIN}\n{table}{END}{after}")


def _write(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _told(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    main()
