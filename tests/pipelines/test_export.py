"""From a selection to a manifest in the store and outside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tamis.errors import DataError
from tamis.pipelines.context import Context
from tamis.pipelines.evaluate import Heldout
from tamis.pipelines.export import export
from tamis.pipelines.pool import Snapshot
from tamis.storage import manifests
from tamis.storage.artifact import Artifact

ROWS = [{"question": f"q{i}", "answer": f"a{i}", "ability": "sum"} for i in range(12)]


@pytest.fixture
def pool(put_rows: Callable[..., Snapshot]) -> Snapshot:
    return put_rows("pool", ROWS, 3)


@pytest.fixture
def ctx(make_context: Callable[..., Context], tmp_path: Path) -> Context:
    return make_context(export={"folder": str(tmp_path / "out"), "shard_rows": 4}, seed=9)


def picked(ctx: Context, pool: Snapshot, order: list[int], weights: Any = None) -> Artifact:
    """A selection artefact that keeps these rows of the pool in this order."""
    n = len(pool)
    rank = np.full(n, -1)
    rank[order] = np.arange(len(order))
    columns: dict[str, Any] = {
        "id": pool.ids,
        "kept": rank >= 0,
        "rank": pa.array(rank, pa.int32(), mask=rank < 0),
        "gain": pa.array(np.where(rank >= 0, rank / 2, np.nan), from_pandas=True),
    }
    if weights is not None:
        columns["weight"] = pa.array(weights, pa.float64())
    table = pa.table(columns)
    choice = {"method": "ids", "options": {"x": 1}, "budget": {"rows": len(order), "tokens": None}}

    def make(maker: Any) -> dict[str, Any]:
        maker.write_parquet("rows.parquet", table)
        return {}

    inputs = {"select": choice, "order": order, "weights": weights, "seed": 9}
    return ctx.store.ensure("selections", inputs, make, say=ctx.say)[0]


def test_rows_come_in_the_order_chosen(ctx: Context, pool: Snapshot, tmp_path: Path) -> None:
    order = [7, 2, 11, 0, 5]
    artifact, reused = export(ctx, pool, picked(ctx, pool, order), None)
    assert not reused and artifact.facts["rows"] == 5 and artifact.facts["heldout"] == 0
    found = manifests.read(artifact.path)
    rows = found.rows()
    assert rows["row_id"].to_pylist() == [pool.ids[i].as_py() for i in order]
    assert rows["score"].to_pylist() == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert rows["ability"].to_pylist() == ["sum"] * 5
    wanted = pool.rows(rows["row_id"].combine_chunks())
    assert rows["messages"].to_pylist() == wanted["messages"].to_pylist()
    assert [f["n_rows"] for f in found.info["files"]] == [4, 1]
    assert found.info["selection"]["method"] == "ids"
    assert found.info["selection"]["budget"] == {"rows": 5}
    assert found.info["selection"]["sources"][0]["name"] == "pool"
    assert found.info["seed"] == 9
    assert manifests.read(tmp_path / "out").info == found.info


def test_the_same_selection_is_exported_once_and_copied_again(
    ctx: Context, pool: Snapshot, tmp_path: Path
) -> None:
    import shutil

    selection = picked(ctx, pool, [1, 2])
    one, _ = export(ctx, pool, selection, None)
    shutil.rmtree(tmp_path / "out")
    two, reused = export(ctx, pool, selection, None)
    assert reused and one == two and (tmp_path / "out" / "manifest.json").is_file()
    export(ctx, pool, picked(ctx, pool, [3]), None, publish=False)
    assert manifests.read(tmp_path / "out").info["files"][0]["n_rows"] == 2


def test_weights_of_a_selection_are_exported(ctx: Context, pool: Snapshot) -> None:
    weights = [i / 4 for i in range(12)]
    artifact, _ = export(ctx, pool, picked(ctx, pool, [3, 8], weights), None)
    found = manifests.read(artifact.path)
    assert found.rows()["weight"].to_pylist() == [0.75, 2.0]
    assert found.info["weights_mode"] == "token_mean"


def test_rows_held_out_are_not_trained_on(
    ctx: Context, pool: Snapshot, put_rows: Callable[..., Snapshot]
) -> None:
    held = Heldout(pool, pool.ids.take(pa.array([4, 5])))
    artifact, _ = export(ctx, pool, picked(ctx, pool, [4, 6, 8]), held)
    found = manifests.read(artifact.path)
    assert artifact.facts["leaked"] == 1 and found.rows().num_rows == 2
    assert found.info["heldout"]["leakage"]["train_rows_left_out"] == 1
    assert found.rows("heldout")["row_id"].to_pylist() == held.ids.to_pylist()
    with pytest.raises(DataError, match="would be empty"):
        export(ctx, pool, picked(ctx, pool, [4]), held)


def test_the_key_follows_what_is_written(
    ctx: Context, pool: Snapshot, make_context: Callable[..., Context]
) -> None:
    selection = picked(ctx, pool, [1, 2, 3])
    held = Heldout(pool, pool.ids.slice(6, 2))
    keys = {
        export(ctx, pool, selection, None)[0].key,
        export(ctx, pool, picked(ctx, pool, [1, 2]), None)[0].key,
        export(ctx, pool, selection, held)[0].key,
        export(ctx, pool, selection, Heldout(pool, pool.ids.slice(7, 2)))[0].key,
        export(make_context(name="other"), pool, selection, None)[0].key,
    }
    assert len(keys) == 5
    table = pq.read_table(ctx.store.folder("manifests", min(keys)) / "data")
    assert "messages" in table.schema.names
