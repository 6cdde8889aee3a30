"""Which signal tells good answers: its rank correlation with how often a model's answers win.

    python -m evidence.quality --graded alpaca_eval_graded.parquet --model base-17m --out out.json

The file has the columns `instruction`, `output`, `source`, `model` and the truths `win_rate` and
`lc_win_rate` (with the length controlled for). No method is shown a truth or the model's name: they
are left out of what tamis reads and joined to the signals at the end. One half of the instructions
trains a scorer, whose targets are ranks of `win_rate`; every signal is tested on the other half.
"""

from __future__ import annotations

import argparse
import json
import os
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.stats import rankdata

from tamis import console, recipe
from tamis.pipelines import rankings
from tamis.pipelines import run as running
from tamis.pipelines.train_scorer import spearman, train_scorer
from tamis.scoring import evol
from tamis.storage.catalogue import OpenStore

HERE = Path(__file__).resolve().parent
TRUTHS = ("win_rate", "lc_win_rate")
SIGNALS = (
    "length.answer_words",
    "length.answer_chars",
    "length.user_words",
    "heuristics.mean_word_length",
    "heuristics.alphabetic",
    "heuristics.symbols",
    "heuristics.bullet_lines",
    "heuristics.repeated_ngrams",
    "heuristics.refusal",
    "heuristics.cut_off",
    "nll.mean",
    "ifd.ppl_ratio",
    "entropy.mean",
    "trained.mean",
)

Rows = list[dict[str, Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--graded", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--store", type=Path, default=Path("quality-store"))
    parser.add_argument("--limit", type=int, help="only so many instructions")
    parser.add_argument("--set", dest="settings", action="append", default=[])
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    trained_on, tested_on = halves(pq.read_table(given.graded).to_pylist(), given.limit)
    _prepare(trained_on, tested_on, given.store)
    settings = [
        f"store={given.store}",
        f"sources.pool.path={given.store / 'pool.parquet'}",
        f"models.base.path={given.model}",
        *given.settings,
    ]
    facts, adapter = _train(given.store / "rankings.jsonl", settings)
    settings += [f"models.trained.{k}={v}" for k, v in adapter.items()]
    loaded = recipe.load(HERE / "quality.yaml", [*settings, "scores.trained.model=trained"])
    loaded = loaded.model_copy(update={"tune": None})  # that was for the scorer
    ctx = running.context(loaded, say=console.say, progress=console.progress)
    summary = running.run(ctx, until="score")
    columns = ", ".join(f'{name} as "{name}"' for name in SIGNALS)
    table = OpenStore(ctx.store).sql(f"select row, {columns} from signals")
    graded = [tested_on[int(row)] for row in table.column("row").to_pylist()]
    found = [_line(name, table.column(name), graded) for name in SIGNALS]
    result = {
        "rows": len(graded),
        "instructions": len({row["instruction"] for row in graded}),
        "models": len({row["model"] for row in graded}),
        "trained": facts,
        "seconds": {o.stage: round(o.seconds, 1) for o in summary.outcomes},
        "settings": given.settings,
        "cores": os.cpu_count(),
        "load": [round(x, 2) for x in os.getloadavg()],
        "signals": found,
    }
    _print(found)
    if given.out is not None:
        given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def halves(rows: Rows, limit: int | None) -> tuple[Rows, Rows]:
    """The rows of two halves of the instructions, cut by the hash of the instruction: all answers
    to one instruction stand on one side. Rows without a text are left out."""
    rows = [row for row in rows if row["instruction"].strip() and row["output"].strip()]
    order = sorted({row["instruction"] for row in rows}, key=_hash)[:limit]
    first, second = set(order[: len(order) // 2]), set(order[len(order) // 2 :])
    return (
        [row for row in rows if row["instruction"] in first],
        [row for row in rows if row["instruction"] in second],
    )


def _hash(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=16).digest()


def _prepare(trained_on: Rows, tested_on: Rows, store: Path) -> None:
    """Write the rankings of one half, and the other half without the truth."""
    store.mkdir(parents=True, exist_ok=True)
    places = rankdata([row["win_rate"] for row in trained_on], method="dense")
    share = (places - 1) / max(places.max() - 1, 1)
    scores = rankings.LOWEST + (rankings.HIGHEST - rankings.LOWEST) * share
    with (store / "rankings.jsonl").open("w", encoding="utf-8") as file:
        for row, score in zip(trained_on, scores, strict=True):
            told = {name: row[name] for name in ("instruction", "output")}
            file.write(json.dumps({**told, "score": float(score)}) + "\n")
    shown = [
        {"row": str(number), **{name: row[name] for name in ("instruction", "output")}}
        for number, row in enumerate(tested_on)
    ]
    pq.write_table(pa.Table.from_pylist(shown), store / "pool.parquet")


def _train(file: Path, settings: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train on one half; what it told, and the model for the recipe.

    A fifth of that half is held out by `train_scorer` itself and is never tested on here.
    """
    loaded = recipe.load(HERE / "quality.yaml", settings)
    ctx = running.context(loaded, say=console.say, progress=console.progress)
    artifact, _ = train_scorer(ctx, [str(file)], "quality", evol.QUALITY, 20.0)
    base = loaded.models["base"].model_dump(exclude_defaults=True, mode="json")
    where = "adapter" if loaded.tune is None or loaded.tune.method == "lora" else "path"
    return dict(artifact.facts), {**base, where: str(artifact.path / "model")}


def _line(name: str, column: pa.ChunkedArray, graded: Rows) -> dict[str, Any]:
    """The correlations of one signal, over rows and over the means of the models."""
    values = column.cast(pa.float64()).to_numpy()
    there = np.isfinite(values)
    values = values[there]
    models = np.array([row["model"] for row in graded])[there]
    told: dict[str, Any] = {"signal": name, "rows": int(there.sum())}
    for truth in TRUTHS:
        wins = np.array([row[truth] for row in graded])[there]
        told[truth] = _rounded(spearman(values, wins))
        means, rates = _by_model(values, models), _by_model(wins, models)
        told[f"{truth}_by_model"] = _rounded(spearman(means, rates))
    return told


def _by_model(values: NDArray[np.float64], models: NDArray[Any]) -> NDArray[np.float64]:
    """The mean of each model, in the order of their names."""
    _, place = np.unique(models, return_inverse=True)
    return np.bincount(place, values) / np.bincount(place)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _print(found: list[dict[str, Any]]) -> None:
    names = [name for truth in TRUTHS for name in (truth, f"{truth}_by_model")]
    print(f"{'signal':<28}" + "".join(f"{name:>22}" for name in names) + f"{'rows':>8}")
    for line in sorted(found, key=lambda f: -abs(f["win_rate"] or 0.0)):
        told = ["-" if line[name] is None else f"{line[name]:+.3f}" for name in names]
        print(f"{line['signal']:<28}" + "".join(f"{v:>22}" for v in told) + f"{line['rows']:>8,}")


if __name__ == "__main__":
    main()
