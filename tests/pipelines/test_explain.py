"""`tamis explain`: the rule that decided and the nearest kept row, against brute force."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tamis.pipelines.context import Context
from tamis.pipelines.explain import document, lines
from tamis.pipelines.pool import Snapshot
from tamis.pipelines.pool_scores import arrow
from tamis.pipelines.report import collect
from tamis.pipelines.run import run
from tamis.storage.catalogue import OpenStore
from tamis.storage.signals import KEY, SignalTable, fingerprint

N = 30


@pytest.fixture
def pool(put_rows: Callable[..., Snapshot], store: Any) -> Snapshot:
    """Rows with vectors and a signal that some lack; the last is the first once more."""
    rows = [{"question": f"q{i}", "answer": "x " * (i + 1)} for i in range(N)]
    pool = put_rows("pool", [*rows, rows[0]], parts=2)
    keys = pool.column("content_key").unique()
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(len(keys), 5)).astype(np.float32)
    quality = np.where(np.arange(len(keys)) % 5 == 0, np.nan, np.arange(len(keys)) / 10)
    reasons = np.array([None if np.isfinite(q) else "no_text" for q in quality], dtype=object)
    for name, columns in {
        "embed": {"vector": vectors},
        "own": {"value": quality, "reason": reasons},
    }.items():
        identity = {"scorer": name}
        table = SignalTable(store, name, fingerprint(identity))
        for half in (slice(0, 11), slice(11, None)):
            part = {n: v[half] for n, v in columns.items()}
            table.append(pa.table({KEY: keys[half], **arrow(part)}), identity)
        store.point("signals", name, fingerprint(identity))
    return pool


def chosen(context: Callable[..., Context], **more: Any) -> OpenStore:
    given = {
        "filters": [{"column": "own.value", "min": 0.4, "max": 2.6}],
        "select": {
            "method": "top",
            "options": {"column": "own.value"},
            "budget": {"rows": 6},
            "drop_duplicates": True,
        },
        **more,
    }
    ctx = context(**given)
    run(ctx, until="select")
    return OpenStore(ctx.store)


def explained(store: OpenStore, reason: str) -> list[tuple[dict[str, Any], str]]:
    """The documents, and the lines, of all rows that the last selection gave this reason."""
    rows = store.sql(
        "select s.id from selections s join runs r on r.selection = s.selection "
        "where reason = $r and run_id = (select max(run_id) from runs)",
        {"r": reason},
    )
    found = [document(store, sample) for sample in rows["id"].to_pylist()]
    assert found
    return [(told, "\n".join(lines(told))) for told in found]


def test_the_rule_is_told_with_its_limits_and_the_value(
    pool: Snapshot, make_context: Callable[..., Context]
) -> None:
    store = chosen(make_context)
    for told, shown in explained(store, "filter:own.value"):
        value = next(s["value"] for s in told["signals"] if s["signal"] == "own.value")
        assert not 0.4 <= value <= 2.6
        assert f"own.value is {value:.4g}: the filter keeps at least 0.4 and at most 2.6" in shown
    for _, shown in explained(store, "null:own.value"):
        assert "it has no value of own.value: no_text" in shown
    for told, shown in explained(store, "below_cut"):
        assert "other rows have better values" in shown
        assert "top (column own.value;" in shown
        compared = {c["signal"]: c for c in told["selections"][0]["rule"]["compared"]}
        assert compared["own.value"]["value"] < compared["own.value"]["kept"]["p5"]


def test_a_copy_names_the_row_that_stands_for_it(
    pool: Snapshot, make_context: Callable[..., Context]
) -> None:
    store = chosen(
        make_context,
        filters=[],
        select={"method": "random", "budget": {"rows": 40}, "drop_duplicates": True},
    )
    ((told, shown),) = explained(store, "duplicate")
    first = store.sql(
        "select min(id) as id from samples where content_key = $k", {"k": told["sample"][KEY]}
    )["id"][0].as_py()
    assert f"it has the same content as {first}, which stands for both" in shown


def test_the_nearest_kept_row_is_that_of_a_loop_over_all(
    pool: Snapshot, make_context: Callable[..., Context]
) -> None:
    store = chosen(make_context)
    ids, vectors = store.embeddings("embed")
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = {r["id"]: r for r in store.sql("select id, kept from selections").to_pylist()}
    contents = dict(
        zip(
            ids,
            store.sql("select content_key from samples order by id")["content_key"].to_pylist(),
            strict=True,
        )
    )
    for i, sample in enumerate(ids):
        near = document(store, sample)["selections"][0]["nearest"]
        others = [
            j
            for j, other in enumerate(ids)
            if rows[other]["kept"] and contents[other] != contents[sample]
        ]
        best = max(others, key=lambda j: unit[i] @ unit[j])
        assert near["id"] == ids[best]
        assert near["similarity"] == pytest.approx(float(unit[i] @ unit[best]), abs=1e-6)
        assert near["by"] == "embed.vector"
        assert near["messages"][0]["content"].startswith("q")


def test_places_are_percent_ranks_and_other_selections_are_counted(
    pool: Snapshot, make_context: Callable[..., Context]
) -> None:
    chosen(make_context, select={"method": "random", "budget": {"rows": 31}}, filters=[])
    store = chosen(make_context)
    values = store.sql("select id, own.value as v from signals").to_pylist()
    known = sorted(r["v"] for r in values if r["v"] is not None)
    for row in values:
        told = document(store, row["id"])
        assert [s["method"] for s in told["selections"]] == ["top"]
        assert [s["method"] for s in told["others"]] == ["random"]
        assert "of 1 other selections in the store 1 keep it" in "\n".join(lines(told))
        place = next(s["place"] for s in told["signals"] if s["signal"] == "own.value")
        if row["v"] is None:
            assert place is None
        else:
            below = sum(v < row["v"] for v in known)
            assert place == pytest.approx(below / (len(known) - 1))


def test_the_report_shows_the_row_that_stands_for_a_dropped_one(
    pool: Snapshot, make_context: Callable[..., Context]
) -> None:
    choice = {
        "method": "deita",
        "options": {"scores": ["own.value"], "embedding": "embed.vector", "tau": 0.3},
        "budget": {"rows": 20},
    }
    store = chosen(make_context, filters=[], select=choice)
    (log,) = store.sql("select * from runs").to_pylist()
    kept_near = {
        r["id"]: (r["nearest_kept"], r["similarity"])
        for r in store.sql("select * from selections where nearest_kept is not null").to_pylist()
    }
    questions = {
        r["id"]: r["messages"][0]["content"]
        for r in store.sql("select id, messages from samples").to_pylist()
    }
    shown = [row for row in collect(store, log).dropped if row.near]
    assert shown
    for row in shown:
        near, similarity = kept_near[row.id]
        told = f"nearest kept {near[:12]}, similarity {similarity:.3f}"
        assert row.near == f"{told}: {questions[near]}"
    closed = [row.near for row in collect(store, log, texts=False).dropped if row.near]
    assert closed == [row.near.rpartition(": ")[0] for row in shown]
