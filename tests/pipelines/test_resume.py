"""Killed anywhere and started again, a run ends with the same ids and values as an undisturbed one.

A scorer of our own stands in for a model: its values depend on the rows of its batch, so that a
shard cut differently after a kill would be seen.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tamis.pipelines import score as scoring
from tamis.pipelines import select as selecting
from tamis.pipelines.columns import Columns
from tamis.pipelines.context import Context
from tamis.pipelines.ingest import ingest_source
from tamis.pipelines.pool import snapshot
from tamis.recipe import Recipe
from tamis.samples import answers, decode_messages
from tamis.storage.artifact import Store
from tamis.storage.catalogue import OpenStore


class Killed(BaseException):
    """Stands for the end of the process: nothing in the code under test may catch it."""


@dataclass(frozen=True)
class Fake:
    """Scores a row by its length and by the size of the batch it came in."""

    scale: float
    on_batch: Callable[[], None] = lambda: None
    name: ClassVar[str] = "fake"
    version: ClassVar[int] = 1
    fields: ClassVar[tuple[str, ...]] = ("value", "vector", "batch", "reason")
    warnings: ClassVar[list[str]] = []
    about: ClassVar[Mapping[str, str]] = {}

    def identity(self) -> Mapping[str, Any]:
        return {"scale": self.scale}

    def score(
        self, batch: pa.RecordBatch, *, advance: Callable[[int], None]
    ) -> Mapping[str, np.ndarray]:
        self.on_batch()
        texts = ["".join(answers(m)) for m in decode_messages(batch.column("messages"))]
        values = np.array([len(t) * self.scale for t in texts])
        values[values % 7 == 0] = np.nan
        advance(len(texts))
        return {
            "value": values,
            "vector": np.stack([[len(t), t.count("a"), 1.0] for t in texts]).astype(np.float32),
            "batch": np.full(len(texts), batch.num_rows),
            "reason": np.array(["seven" if np.isnan(v) else None for v in values], dtype=object),
        }


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    made = [{"instruction": f"q{i % 45}", "output": "ab"[i % 2] * (i % 40 + 1)} for i in range(60)]
    lines = [*map(json.dumps, made), "{broken", json.dumps({"instruction": "x", "output": ""})]
    path.write_text("\n".join(lines))
    return path


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tamis.pipelines.shards.SHARD_ROWS", 8)
    monkeypatch.setattr("tamis.pipelines.ingest.SHARD_ROWS", 25)


def chain(
    root: Path, rows: Path, progress: Any, on_batch: Callable[[], None] = lambda: None
) -> int:
    """Ingest, score twice and select; returns how many values were computed."""
    recipe = Recipe.model_validate(
        {
            "sources": {"pool": {"path": str(rows)}},
            "filters": [{"column": "short.value", "min": 2}],
            "select": {
                "method": "deita",
                "options": {"scores": ["long.value"], "embedding": "short.vector", "tau": 0.999},
                "budget": {"rows": 9},
            },
        }
    )
    ctx = Context(recipe, Store(root), "cpu", lambda _: None, progress)
    source = recipe.sources["pool"]
    artifact, _ = ingest_source(ctx.store, "pool", source, say=ctx.say, progress=progress)
    ctx.store.point("samples", "pool", artifact.key)
    pool = snapshot(ctx.store, {"pool": artifact.key})
    outcome = scoring.score(ctx, pool, {"short": Fake(1.0, on_batch), "long": Fake(3.5, on_batch)})
    signals = {n.removeprefix("signals/"): k for n, k in outcome.keys.items()}
    columns = Columns(ctx.store, pool, signals, ctx.say)
    assert recipe.select is not None
    selecting.select(ctx, columns, recipe.select, recipe.filters, np.zeros(len(pool), dtype=bool))
    return outcome.computed


def contents(root: Path) -> dict[str, Any]:
    """Everything in a store that is a result: every table, keyed by where it lies."""
    assert not list(root.rglob("*.tmp")), "temporary files were left"
    assert not list(root.rglob("*.partial")), "unfinished artefacts were left"
    tables = {str(p.relative_to(root)): pq.read_table(p) for p in sorted(root.rglob("*.parquet"))}
    arrays = {str(p.relative_to(root)): np.load(p).tolist() for p in root.rglob("*.npy")}
    pointers = {str(p.relative_to(root)): p.read_text() for p in root.glob("latest/*/*.json")}
    return {**tables, **arrays, **pointers}


class Bomb:
    """Counts what it is told of and goes off at the given count; 0 never."""

    def __init__(self) -> None:
        self.count = 0
        self.at = 0

    def arm(self, at: int) -> None:
        self.count, self.at = 0, at

    def tick(self) -> None:
        self.count += 1
        if self.count == self.at:
            raise Killed


def test_every_rename_is_a_safe_place_to_be_killed(
    tmp_path: Path, rows: Path, monkeypatch: pytest.MonkeyPatch, no_progress: Any
) -> None:
    bomb = Bomb()
    real = os.replace

    def replace(source: Any, target: Any) -> None:
        bomb.tick()
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    chain(tmp_path / "plain", rows, no_progress)
    renames, expected = bomb.count, contents(tmp_path / "plain")
    assert renames > 20
    for at in range(1, renames + 1):
        root = tmp_path / f"killed-{at}"
        bomb.arm(at)
        with pytest.raises(Killed):
            chain(root, rows, no_progress)
        bomb.arm(0)
        chain(root, rows, no_progress)
        assert contents(root) == expected, f"killed at rename {at}"


def test_a_scorer_that_dies_costs_one_shard(tmp_path: Path, rows: Path, no_progress: Any) -> None:
    total = chain(tmp_path / "plain", rows, no_progress)
    bomb = Bomb()
    for at in range(1, 8):
        root = tmp_path / f"died-{at}"
        bomb.arm(at)
        with pytest.raises(Killed):
            chain(root, rows, no_progress, bomb.tick)
        bomb.arm(0)
        left = chain(root, rows, no_progress, bomb.tick)
        done = total - left
        assert done >= 4 * (at - 1), "shards that were finished were computed again"
        assert contents(root) == contents(tmp_path / "plain")
        assert chain(root, rows, no_progress, bomb.tick) == 0


def test_new_rows_cost_only_themselves(tmp_path: Path, rows: Path, no_progress: Any) -> None:
    root = tmp_path / "store"
    first = chain(root, rows, no_progress)
    with rows.open("a") as file:
        file.write("\n" + json.dumps({"instruction": "new", "output": "row"}))
        file.write("\n" + json.dumps({"instruction": "q1", "output": "b" * 2}))
    assert chain(root, rows, no_progress) == 2  # one new content, two signals
    assert first > 60


def test_values_do_not_depend_on_the_layout_of_the_source(
    tmp_path: Path, rows: Path, monkeypatch: pytest.MonkeyPatch, no_progress: Any
) -> None:
    chain(tmp_path / "a", rows, no_progress)
    monkeypatch.setattr("tamis.pipelines.ingest.SHARD_ROWS", 7)
    chain(tmp_path / "b", rows, no_progress)

    def kept(root: Path) -> list[Any]:
        table = pq.read_table(next(root.glob("selections/*/rows.parquet")))
        return table.select(["id", "kept", "rank", "reason", "nearest_kept"]).to_pylist()

    assert kept(tmp_path / "a") == kept(tmp_path / "b")


def test_content_that_stands_in_several_parts_is_scored_once(
    make_context: Callable[..., Context], put_rows: Callable[..., Any]
) -> None:
    rows = [{"question": f"q{i % 7}", "answer": "a"} for i in range(21)]
    pool = put_rows("pool", rows, parts=3)
    context = make_context()
    outcome = scoring.score(context, pool, {"fake": Fake(1.0)})
    key = outcome.keys["signals/fake"]
    parts = context.store.folder("signals", key).glob("part-*.parquet")
    stored = [k for part in parts for k in pq.read_table(part)["content_key"].to_pylist()]
    assert len(stored) == len(set(stored)) == outcome.computed == 7
    view = OpenStore(context.store).sql("select count(*) n from signals")
    assert view.to_pylist() == [{"n": 21}]
