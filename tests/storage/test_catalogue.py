"""The SQL views tell what the store holds, and SQL can do no harm."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from tamis.errors import DataError, StoreError
from tamis.storage import files
from tamis.storage.artifact import Maker, Store
from tamis.storage.catalogue import OpenStore, open_store
from tamis.storage.signals import KEY, SignalTable, fingerprint
from tamis.storage.views import VIEWS


def put_samples(store: Store, name: str, table: pa.Table, rejected: pa.Table | None = None) -> None:
    def make(maker: Maker) -> dict[str, str]:
        maker.write_parquet("part-00000.parquet", table)
        if rejected is not None:
            maker.write_parquet("rejected-00000.parquet", rejected)
        return {"name": name}

    inputs = {"name": name, "rows": table.column("id").to_pylist()}
    artifact, _ = store.ensure("samples", inputs, make, say=lambda _: None)
    store.point("samples", name, artifact.key)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    put_samples(
        store,
        "a",
        pa.table(
            {
                "id": ["i1", "i2", "i3"],
                "content_key": ["k1", "k2", "k1"],
                "source": ["a"] * 3,
                "family": ["x", "y", "x"],
                "toy": [7, 8, 9],
            }
        ),
        pa.table(
            {
                "source": ["a"],
                "file": ["f"],
                "line": pa.array([3], pa.int64()),
                "reason": ["empty_answer"],
                "text": ["{}"],
            }
        ),
    )
    put_samples(store, "b", pa.table({"id": ["i4"], "content_key": ["k3"], "source": ["b"]}))
    identity = {"scorer": "toy"}
    SignalTable(store, "toy", fingerprint(identity)).append(
        pa.table({KEY: ["k1", "k2"], "loss": [1.0, None], "tokens": [3, 4], "why": [None, "cut"]}),
        identity,
    )
    store.point("signals", "toy", fingerprint(identity))
    return store


def answers(store: Store, query: str) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = OpenStore(store).sql(query).to_pylist()
    return rows


def test_signals_are_structs_beside_the_original_columns(store: Store) -> None:
    got = answers(store, "select id, family, toy.loss l, orig_toy from signals order by id")
    assert got == [
        {"id": "i1", "family": "x", "l": 1.0, "orig_toy": 7},
        {"id": "i2", "family": "y", "l": None, "orig_toy": 8},
        {"id": "i3", "family": "x", "l": 1.0, "orig_toy": 9},
        {"id": "i4", "family": None, "l": None, "orig_toy": None},
    ]


def test_the_long_view_has_one_row_a_number(store: Store) -> None:
    got = answers(store, "select id, signal, value from signals_long order by id, signal")
    assert {(r["id"], r["signal"], r["value"]) for r in got if r["id"] in {"i1", "i2"}} == {
        ("i1", "toy.loss", 1.0),
        ("i1", "toy.tokens", 3.0),
        ("i2", "toy.loss", None),
        ("i2", "toy.tokens", 4.0),
    }
    assert "toy.why" not in {r["signal"] for r in got}


def test_rejected_rows_are_counted_by_reason(store: Store) -> None:
    got = answers(store, "select reason, count(*) n from rejected group by 1")
    assert got == [{"reason": "empty_answer", "n": 1}]


def test_a_newer_snapshot_of_a_source_takes_the_place_of_the_older(store: Store) -> None:
    put_samples(store, "b", pa.table({"id": ["i5"], "content_key": ["k5"], "source": ["b"]}))
    ids = [r["id"] for r in answers(store, "select id from samples order by id")]
    assert ids == ["i1", "i2", "i3", "i5"]


def test_every_view_exists_in_an_empty_store(tmp_path: Path) -> None:
    tmp_path.joinpath("s").mkdir()
    for view in VIEWS:
        assert open_store(tmp_path / "s").sql(f"select * from {view}").num_rows == 0
    with pytest.raises(StoreError, match="no store"):
        open_store(tmp_path / "nowhere")


def test_runs_are_a_view(store: Store) -> None:
    run = {"run_id": "r1", "recipe": "t", "metrics": {"nll": 2.5}, "status": "complete"}
    files.write_json(store.root / "runs" / "r1.json", run)
    got = answers(store, "select run_id, metrics->>'nll' nll from runs")
    assert got == [{"run_id": "r1", "nll": "2.5"}]


@pytest.mark.parametrize(
    "query",
    [
        "copy (select 1) to '{root}/x.csv'",
        "select 1; select 2",
        "create table t as select 1",
        "attach '{root}/x.db'",
        "set memory_limit='1GB'",
        "install httpfs",
        "pragma database_list",
        "explain analyze select 1",
        "",
    ],
)
def test_only_one_select_is_run(store: Store, query: str) -> None:
    with pytest.raises(DataError, match="exactly one SELECT"):
        OpenStore(store).sql(query.format(root=store.root))
    assert not list(store.root.glob("x.*"))


@pytest.mark.parametrize(
    "query",
    [
        "select * from read_csv('{outside}')",
        "select * from read_text('{outside}')",
        "select * from '{outside}'",
        "select * from glob('/etc/*')",
        "select * from read_parquet('https://example.org/a.parquet')",
    ],
)
def test_sql_reads_nothing_outside_the_store(store: Store, tmp_path: Path, query: str) -> None:
    outside = tmp_path / "secret.csv"
    outside.write_text("a\nsecret\n")
    with pytest.raises(DataError, match="SQL"):
        OpenStore(store).sql(query.format(outside=outside))


def test_a_mistake_is_one_line(store: Store) -> None:
    with pytest.raises(DataError) as caught:
        OpenStore(store).sql("select nope from signals")
    assert "nope" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names_with_quotes_are_harmless(tmp_path: Path) -> None:
    store = Store(tmp_path / "it's")
    columns = {"id": ["i"], "content_key": ["k"], "source": ["s"], 'we"ird': [1]}
    put_samples(store, "s", pa.table(columns))
    assert answers(store, 'select "we""ird" w from signals') == [{"w": 1}]


def test_parameters_are_values_not_sql(store: Store) -> None:
    got = OpenStore(store).sql("select id from samples where id = $id", {"id": "i1' or 1=1"})
    assert got.num_rows == 0


def test_an_open_store_sees_what_is_added_later(store: Store) -> None:
    opened = OpenStore(store)
    count = "select count(*) n from samples"
    assert opened.sql(count).to_pylist() == [{"n": 4}]
    put_samples(store, "c", pa.table({"id": ["i9"], "content_key": ["k9"], "source": ["c"]}))
    assert opened.sql(count).to_pylist() == [{"n": 5}]


def test_columns_of_one_name_are_all_there(store: Store) -> None:
    got = answers(store, "select toy.loss, toy.loss, id from signals where id = 'i1'")
    assert got == [{"loss": 1.0, "loss_2": 1.0, "id": "i1"}]
