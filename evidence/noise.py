"""Which signal finds wrong answers: the AUC of each for rows whose answer was swapped.

    python -m evidence.noise --pool t0_noisy_pool.parquet --model base-17m --out results.json

The pool has the columns `instruction`, `output`, `family` and the truth `is_corrupted`, which no
method is shown: it is left out of what tamis reads and joined to the signals at the end.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tamis import console, recipe
from tamis.pipelines import run as running
from tamis.storage.catalogue import OpenStore

HERE = Path(__file__).resolve().parent
FAMILIES = ("rotten_tomatoes", "glue_qqp", "commonsense_qa", "paws")
# Where a high value speaks for a wrong answer: 1; where it speaks for a right one: -1.
SIGNALS = {
    "length.answer_words": 1,
    "untuned.mean": 1,
    "nll.mean": 1,
    "ifd.loss_ratio": 1,
    "entropy.mean": 1,
    "el2n.mean": 1,
    "gradient.norm": 1,
    "reflection.confidence": -1,
    "consistency.confidence": -1,
    "embedded.confidence": -1,
    "mixed.value": -1,
    "likelihood.confidence": -1,
    "neighbours.same": -1,
    "neighbours.agreement": -1,
    "nll_rank.value": 1,
    "combined.value": 1,
}

_BY_NLI = (
    "{{scorer: clear, model: knows, options: {{samples: 3, similarity: nli, comparer: {folder}, "
    "beta: 1.0, max_new_tokens: 16}}}}"
)


def auc(values: NDArray[np.float64], wrong: NDArray[np.bool_]) -> float:
    """The chance that a wrong row has the higher value, ties counting half."""
    from scipy.stats import rankdata

    positive = int(wrong.sum())
    ranks = rankdata(values)[wrong].sum()
    return float((ranks - positive * (positive + 1) / 2) / (positive * (len(wrong) - positive)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pool", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--store", type=Path, default=Path("noise-store"))
    parser.add_argument("--families", nargs="*", default=list(FAMILIES))
    parser.add_argument("--nli", type=Path, help="a classifier, for CLEAR's consistency by it")
    parser.add_argument("--limit", type=int, help="only the first rows")
    parser.add_argument("--set", dest="settings", action="append", default=[])
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    truth = _prepare(given.pool, given.families, given.limit, given.store)
    settings = [
        f"store={given.store}",
        f"sources.pool.path={given.store / 'pool.parquet'}",
        f"models.base.path={given.model}",
        *given.settings,
    ]
    signals = dict(SIGNALS)
    if given.nli is not None:
        settings.append(f"scores.inferred={_BY_NLI.format(folder=given.nli)}")
        signals["inferred.confidence"] = -1
    loaded = recipe.load(HERE / "noise.yaml", settings)
    ctx = running.context(loaded, say=console.say, progress=console.progress)
    summary = running.run(ctx, until="score")
    columns = ", ".join(f'{name} as "{name}"' for name in signals)
    table = OpenStore(ctx.store).sql(f"select row, {columns} from signals")
    wrong = np.array([truth[row] for row in table.column("row").to_pylist()])
    found = [_line(name, sign, table.column(name), wrong) for name, sign in signals.items()]
    result = {
        "rows": len(wrong),
        "wrong": int(wrong.sum()),
        "seconds": {o.stage: round(o.seconds, 1) for o in summary.outcomes},
        "settings": given.settings,
        "cores": os.cpu_count(),
        "load": [round(x, 2) for x in os.getloadavg()],
        "signals": found,
    }
    for line in sorted(found, key=lambda f: -f["auc"]):
        print(f"{line['signal']:<24} {line['auc']:.3f} {line['interval']} {line['rows']:,} rows")
    if given.out is not None:
        given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _prepare(pool: Path, families: list[str], limit: int | None, store: Path) -> dict[str, bool]:
    """Write the pool without the truth; returns the truth by row."""
    table = pq.read_table(pool)
    table = table.filter(pc.is_in(table.column("family"), pa.array(families)))
    table = table.slice(0, limit)
    store.mkdir(parents=True, exist_ok=True)
    shown = table.select(["id", "instruction", "output", "family"])
    pq.write_table(shown.rename_columns(["row", *shown.column_names[1:]]), store / "pool.parquet")
    return dict(
        zip(table.column("id").to_pylist(), table.column("is_corrupted").to_pylist(), strict=True)
    )


def _line(name: str, sign: int, column: pa.ChunkedArray, wrong: np.ndarray) -> dict[str, Any]:
    values = column.cast(pa.float64()).to_numpy() * sign
    there = np.isfinite(values)
    values, truth = values[there], wrong[there]
    rng = np.random.default_rng(0)
    draws = [rng.integers(len(values), size=len(values)) for _ in range(200)]
    spread = np.quantile([auc(values[d], truth[d]) for d in draws], [0.025, 0.975])
    return {
        "signal": name,
        "auc": round(auc(values, truth), 4),
        "interval": [round(float(v), 4) for v in spread],
        "rows": int(there.sum()),
    }


if __name__ == "__main__":
    main()
