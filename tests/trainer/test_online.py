"""Online selection in the trainer: which rows are trained on, exactly and reproducibly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tamis.recipe import Model, Tune
from tamis.selectors import online as rules
from tamis.trainer.data import steps
from tamis.trainer.online import PICKS, Given
from tamis.trainer.tune import tune

LORA = {"method": "lora", "options": {"rank": 4}, "learning_rate": 0.01}
FULL = {"method": "full", "learning_rate": 0.003, "options": {}}
OPTIONS: dict[str, dict[str, Any]] = {
    "uds": {"max_length": 128, "queue": 8, "vocab_dim": 16},
    "greats": {"learning_rate": 0.1},
}
# Far enough from 0 that diversity decides; with the default an empty queue changes no pick.
DIVERSE = {"max_length": 128, "alpha": 0.23}


@pytest.fixture
def run(
    tiny: Model, table: Callable[..., pa.Table], sums: Any, progress: Any, tmp_path: Path
) -> Callable[..., dict[str, Any]]:
    """Tune the tiny model on the sums in a folder under the test's own."""

    def start(
        folder: str,
        *,
        rows: pa.Table | None = None,
        bar: Any = None,
        seed: int = 3,
        given: Given | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        settings = {"rows_per_step": 8, "batch_tokens": 128, "save_every": 2, **LORA, **options}
        (tmp_path / folder).mkdir(exist_ok=True)
        return tune(
            table(sums) if rows is None else rows,
            tiny,
            Tune.model_validate(settings),
            seed=seed,
            device="cpu",
            folder=tmp_path / folder,
            say=lambda line: None,
            progress=bar or progress(),
            given=given or Given(table(sums[:5]), tiny),
        )

    return start


def chosen(method: str, keep: float = 0.5, **options: Any) -> dict[str, Any]:
    """The block `online` for a rule, with files it is not asked to read here."""
    safe = {"safe": "trusted.jsonl"} if method in ("bds", "greats") else {}
    return {
        "method": method,
        "keep": keep,
        "options": {**OPTIONS.get(method, {}), **options},
        **safe,
    }


def picks(tmp_path: Path, folder: str) -> pa.Table:
    return pq.read_table(tmp_path / folder / PICKS)


def kept(log: pa.Table) -> list[tuple[int, str]]:
    taken = log.filter(log["kept"])
    return list(zip(taken["step"].to_pylist(), taken["row_id"].to_pylist(), strict=True))


@pytest.mark.parametrize("method", rules.names())
def test_every_rule_trains_six_steps_on_half_the_rows(
    method: str, run: Any, tmp_path: Path, weights_of: Any
) -> None:
    report = run("a", online=chosen(method), max_steps=6, epochs=2)
    told = report["online"]
    assert report["steps"] == len(report["history"]) == 6
    assert told["candidate_rows"] == 48 and told["kept_rows"] == 24 and told["uncut"] == 0
    log = picks(tmp_path, "a")
    assert log.num_rows == 48 and len(kept(log)) == 24
    orders = steps(40, epochs=2, rows_per_step=8, max_steps=6, seed=3)
    assert log["row_id"].to_pylist() == [f"r{i:03d}" for group in orders for i in group]
    times: dict[str, int] = {}
    for _, row in kept(log):
        times[row] = times.get(row, 0) + 1
    histogram = {str(t): list(times.values()).count(t) for t in set(times.values())}
    if len(times) < 40:
        histogram["0"] = 40 - len(times)
    assert told["rows_by_times_trained"] == histogram
    assert dict(map(tuple, told["most_trained"])).items() <= times.items()
    for entry in report["history"]:
        assert entry["online"]["kept_rows"] == 4 and np.isfinite(entry["loss"])
        assert entry["online"]["kept_tokens"] < entry["online"]["candidate_tokens"]
    assert all(w.isfinite().all() for w in weights_of(tmp_path / "a" / "model").values())
