"""What each tuning method costs and what it reaches: the table of docs/trainer.md.

    python -m evidence.trainer_methods --pool t0_pool.parquet --eval t0_eval.parquet \\
        --model base-17m --out results.json --markdown table.md

Pool and evaluation have the columns `id`, `instruction`, `output`, `family`. Every method trains on
the same rows in the same steps, in a process of its own, so that the peak of memory is its own.
Rates are the methods' defaults times a factor, since those are for models a hundred times as large;
the table tells the rate that was used. Held-out: -log p in nats a token, and exact match of greedy
answers; methods with virtual tokens are asked for the former alone. Without `--methods`, all.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tamis.recipe import Model, Tune
from tamis.samples import MESSAGES, encode_message
from tamis.trainer import methods

FAMILIES = ("rotten_tomatoes", "glue_qqp", "commonsense_qa", "paws")
# Defaults are for billions of parameters; these reach their best rate on tens of millions.
FACTOR = {"full": 50.0, "adapter": 10.0}
COLUMNS = {
    "method": "method",
    "rate": "rate",
    "trainable %": "trainable",
    "peak MB": "peak_mb",
    "tokens/s": "tokens_per_second",
    "held-out NLL": "nll",
    "exact match": "exact_match",
}


def main() -> None:
    """Run every method in a process of its own and write the table."""
    given = _arguments()
    if given.one is not None:
        print(json.dumps(measure(given.one, given)))
        return
    found = []
    for name in given.methods or ["untuned", *methods.names()]:
        done = subprocess.run(
            [sys.executable, "-m", "evidence.trainer_methods", *sys.argv[1:], "--one", name],
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode == 0:
            found.append(json.loads(done.stdout.strip().splitlines()[-1]))
            print("  ".join(f"{title} {_told(found[-1][key])}" for title, key in COLUMNS.items()))
        else:
            print(f"{name}: failed, see above", file=sys.stderr)
    result = {
        "settings": {k: v for k, v in vars(given).items() if k not in _PLACES},
        "cores": os.cpu_count(),
        "load": [round(x, 2) for x in os.getloadavg()],
        "methods": found,
    }
    if given.out is not None:
        given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if given.markdown is not None:
        given.markdown.write_text(markdown(found), encoding="utf-8")


_PLACES = {"pool", "eval", "model", "out", "markdown", "one"}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pool", type=Path, required=True)
    parser.add_argument("--eval", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--families", nargs="*", default=list(FAMILIES))
    parser.add_argument("--methods", nargs="*")
    parser.add_argument("--rows", type=int, default=1000, help="of the pool")
    parser.add_argument("--eval-rows", type=int, default=80)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rows-per-step", type=int, default=32)
    parser.add_argument("--factor", type=float, help="on every default rate, in place of ours")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--markdown", type=Path)
    return parser.parse_args()


def measure(name: str, given: argparse.Namespace) -> dict[str, Any]:
    """Tune by a method, or not, and evaluate; one line of the table."""
    from tamis.trainer.tune import tune

    base = Model(path=str(given.model), prompt_style="chat")
    heldout = table(given.eval, given.families, given.eval_rows, given.seed)
    if name == "untuned":
        empty = dict.fromkeys(COLUMNS.values())
        return {**empty, "method": name, **scored(base, heldout, given.device)}
    kind = methods.get(name)
    method = methods.build(name, kind.example)
    factor = given.factor or (1.0 if not kind.packable else FACTOR[kind.kind])
    options = Tune(
        method=name,
        options=dict(kind.example),
        epochs=given.steps * given.rows_per_step / given.rows,
        max_steps=given.steps,
        rows_per_step=given.rows_per_step,
        packing="best_fit" if kind.packable else "none",
        learning_rate=method.learning_rate * factor,
        save_every=given.steps,
    )
    with tempfile.TemporaryDirectory() as folder:
        report = tune(
            table(given.pool, given.families, given.rows, given.seed),
            base,
            options,
            seed=given.seed,
            device=given.device,
            folder=Path(folder),
            say=lambda line: print(line, file=sys.stderr),
            progress=quietly,
        )
        place = Path(folder) / "model"
        figures = (
            scored(_tuned(base, kind.kind, place), heldout, given.device)
            if kind.packable
            else {"nll": _nll_behind_virtual_tokens(base, place, heldout), "exact_match": None}
        )
    return {
        "method": name,
        "rate": report["learning_rate"],
        "trainable": 100 * report["trainable_share"],
        "peak_mb": report["peak_memory_bytes"] / 2**20,
        "tokens_per_second": report["tokens_seen"] / report["seconds"],
        **figures,
    }


def table(path: Path, families: list[str], rows: int, seed: int) -> pa.Table:
    """Random rows of these families, as the trainer and the evaluation take them."""
    read = pq.read_table(path)
    read = read.filter(pc.is_in(read.column("family"), pa.array(families)))
    order = np.random.default_rng(seed).permutation(read.num_rows)[:rows]
    read = read.take(np.sort(order))
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


def scored(model: Model, heldout: pa.Table, device: str) -> dict[str, Any]:
    """Held-out NLL and exact match."""
    from tamis.trainer.evaluate import evaluate, metrics

    rows = evaluate(heldout, model, max_new_tokens=16, device=device, progress=quietly)
    found = metrics(rows, resamples=100, seed=0)
    return {"nll": found["nll"]["value"], "exact_match": found["exact_match"]["value"]}


def _tuned(base: Model, kind: str, folder: Path) -> Model:
    return base.model_copy(update={"adapter" if kind == "adapter" else "path": str(folder)})


def _nll_behind_virtual_tokens(base: Model, folder: Path, heldout: pa.Table) -> float:
    """By plain peft, one row a pass."""
    import torch
    from peft import PeftModel

    from tamis.language.load import load_model, load_tokenizer, max_length
    from tamis.trainer.data import prepare

    limit = max_length(base)
    rows = prepare(heldout, load_tokenizer(base), prompt_style=base.prompt_style, max_length=limit)
    model = PeftModel.from_pretrained(load_model(base, "cpu"), folder).eval()
    total, tokens = 0.0, 0
    for i in range(len(rows)):
        ids, labels = (torch.from_numpy(a)[None] for a in rows.row(i))
        with torch.inference_mode():
            loss = model(input_ids=ids, labels=labels, attention_mask=torch.ones_like(ids)).loss
        trained = int((labels != -100).sum())
        total, tokens = total + float(loss) * trained, tokens + trained
    return total / tokens


def markdown(found: list[dict[str, Any]]) -> str:
    """The table."""
    head = "| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS) + "\n"
    lines = ("| " + " | ".join(_told(line[k]) for k in COLUMNS.values()) + " |" for line in found)
    return head + "\n".join(lines) + "\n"


def _told(value: Any) -> str:
    if value is None:
        return ""
    return (
        f"{value:.3g}"
        if isinstance(value, float) and value < 100
        else (f"{value:,.0f}" if isinstance(value, float) else str(value))
    )


@contextmanager
def quietly(title: str, total: int) -> Any:
    """Progress that shows nothing."""
    yield lambda rows: None


if __name__ == "__main__":
    main()
