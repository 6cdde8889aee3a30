"""Runs of the tiny model under an online rule, and their logs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tamis.recipe import Model, Tune
from tamis.trainer.given import Given
from tamis.trainer.online import PICKS
from tamis.trainer.tune import tune

OPTIONS: dict[str, dict[str, Any]] = {
    "uds": {"max_length": 128, "queue": 8, "vocab_dim": 16},
    "greats": {"learning_rate": 0.1},
}


@pytest.fixture
def run(
    tiny: Model, table: Callable[..., pa.Table], sums: Any, progress: Any, tmp_path: Path
) -> Callable[..., dict[str, Any]]:
    """Tune the tiny model on the forty sums in a folder under the test's own; five of them are the
    trusted rows, itself is the reference."""

    def start(
        folder: str,
        *,
        rows: Any = None,
        bar: Any = None,
        seed: int = 3,
        given: Given | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        settings = {
            "method": "lora",
            "options": {"rank": 4},
            "learning_rate": 0.01,
            "rows_per_step": 8,
            "batch_tokens": 128,
            "save_every": 2,
            **options,
        }
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


@pytest.fixture
def chosen() -> Callable[..., dict[str, Any]]:
    """The block `online` for a rule, with the files that a recipe would name."""

    def block(method: str, keep: float = 0.5, **options: Any) -> dict[str, Any]:
        safe = {"safe": "trusted.jsonl"} if method in ("bds", "greats") else {}
        given = {**OPTIONS.get(method, {}), **options}
        return {"method": method, "keep": keep, "options": given, **safe}

    return block


@pytest.fixture
def picks(tmp_path: Path) -> Callable[[str], pa.Table]:
    """The log of a run's picks."""
    return lambda folder: pq.read_table(tmp_path / folder / PICKS)


@pytest.fixture
def kept(picks: Callable[[str], pa.Table]) -> Callable[[str], list[list[str]]]:
    """The rows that each step was trained on."""

    def rows(folder: str) -> list[list[str]]:
        taken = picks(folder).filter(picks(folder)["kept"])
        steps: dict[int, list[str]] = {}
        for step, row in zip(taken["step"].to_pylist(), taken["row_id"].to_pylist(), strict=True):
            steps.setdefault(step, []).append(row)
        return [steps[s] for s in sorted(steps)]

    return rows


@pytest.fixture
def same(tmp_path: Path, weights_of: Any) -> Callable[[str, str], bool]:
    """Whether two runs left the same parameters, bit for bit."""

    def equal(one: str, other: str) -> bool:
        a, b = (weights_of(tmp_path / name / "model") for name in (one, other))
        return a.keys() == b.keys() and all((a[k] == b[k]).all() for k in a)

    return equal
