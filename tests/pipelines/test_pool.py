"""The pool is in ascending id whatever the parts, and the held-out rows depend on content alone."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tamis.errors import DataError, RecipeError
from tamis.pipelines import heldout
from tamis.pipelines.columns import Columns, missing
from tamis.pipelines.pool import Snapshot, snapshot
from tamis.samples import decode_messages
from tamis.storage.artifact import Store

Put = Callable[..., Snapshot]


def rows(n: int, **more: Any) -> list[dict[str, Any]]:
    return [{"question": f"q{i}", "answer": f"a{i}", "number": i, **more} for i in range(n)]


def columns(store: Store, pool: Snapshot, signals: dict[str, str] | None = None) -> Columns:
    return Columns(store, pool, signals or {}, lambda _: None)


def test_rows_ascend_by_id_and_columns_follow(put_rows: Put) -> None:
    pool = put_rows("a", rows(50), parts=7)
    ids = pool.ids.to_pylist()
    assert ids == sorted(ids)
    numbers = pool.column("number").to_pylist()
    assert sorted(numbers) == list(range(50))
    table = pool.rows(pool.ids, ["id", "number", "messages"])
    assert table.column("number").to_pylist() == numbers
    said = [m[1]["content"] for m in decode_messages(table.column("messages"))]
    assert said == [f"a{i}" for i in numbers]


def test_the_layout_of_parts_changes_nothing(put_rows: Put, store: Store) -> None:
    whole = put_rows("a", rows(30), parts=1)
    split = put_rows("a", rows(30), parts=4)
    assert whole.sources != split.sources
    assert whole.ids.equals(split.ids)
    assert whole.column("number").equals(split.column("number"))


def test_a_column_one_source_lacks_is_null_there(put_rows: Put) -> None:
    put_rows("a", rows(3, family="x"))
    pool = put_rows("b", rows(2))
    families = dict(zip(pool.ids.to_pylist(), pool.column("family").to_pylist(), strict=True))
    sources = dict(zip(pool.ids.to_pylist(), pool.column("source").to_pylist(), strict=True))
    assert {sources[i]: f for i, f in families.items()} == {"a": "x", "b": None}
    with pytest.raises(DataError, match="no sample has a column 'nope'"):
        pool.column("nope")


def test_rows_come_in_the_order_asked_and_unknown_ids_are_an_error(put_rows: Put) -> None:
    pool = put_rows("a", rows(10), parts=3)
    wanted = pool.ids.take(pa.array([7, 2, 2, 9]))
    assert pool.rows(wanted, ["id"]).column("id").to_pylist() == wanted.to_pylist()
    with pytest.raises(DataError, match="1 of 2 ids"):
        pool.rows(pa.array([pool.ids[0].as_py(), "zz"]))


def test_unknown_signals_are_named(put_rows: Put, store: Store) -> None:
    pool = put_rows("a", rows(3))
    with pytest.raises(RecipeError, match="no signal 'nll'"):
        columns(store, pool).values("nll.mean")


def test_held_out_rows_do_not_depend_on_layout_names_or_later_rows(
    put_rows: Put, store: Store
) -> None:
    def held(pool: Snapshot) -> set[str]:
        mask = heldout.split(columns(store, pool), 10, "source")
        return set(np.asarray(pool.column("number").to_pylist())[mask].tolist())

    first = held(put_rows("a", rows(400)))
    assert len(first) == 50  # a tenth would be 40; there are at least 50
    assert held(put_rows("a", rows(400), parts=5)) == first
    more = held(put_rows("a", rows(440)))
    assert len(more & first) > 35


def test_copies_are_held_out_together_and_groups_in_proportion(put_rows: Put, store: Store) -> None:
    twice = [{**r, "group": "x"} for r in rows(300)] * 2
    other = [{**r, "question": f"o{r['number']}", "group": "y"} for r in rows(100)]
    pool = put_rows("a", [*twice, *other])
    mask = heldout.split(columns(store, pool), 20, "group")
    keys = np.asarray(pool.column("content_key").to_pylist())
    assert set(keys[mask]) & set(keys[~mask]) == set()
    groups = np.asarray(pool.column("group").to_pylist())
    distinct = {g: len(set(keys[mask & (groups == g)])) for g in ("x", "y")}
    assert distinct["x"] == pytest.approx(3 * distinct["y"], abs=3)


def test_the_bounds_of_the_held_out_share(put_rows: Put, store: Store) -> None:
    sizes = {}
    for n in (20, 1000, 12_000):
        pool = put_rows("a", rows(n))
        sizes[n] = int(heldout.split(columns(store, pool), 5, "source").sum())
    assert sizes == {20: 10, 1000: 50, 12_000: 500}


def test_two_sources_make_one_pool(put_rows: Put, store: Store) -> None:
    put_rows("a", rows(5))
    both = put_rows("b", rows(5))
    only = snapshot(store, {"b": store.latest("samples")["b"]})
    assert len(both) == 10
    assert set(only.ids.to_pylist()) < set(both.ids.to_pylist())


def test_columns_of_lists_are_ragged_whatever_their_lengths(put_rows: Put, store: Store) -> None:
    given = [[1.0, 2.0], [3.0], None, [], [4.0, 5.0, 6.0]]
    made = [{**r, "turns": turns} for r, turns in zip(rows(5), given, strict=True)]
    same = [{**r, "turns": [1.5, 2.5]} for r in rows(3)]
    for source in (made, same):
        pool = put_rows("a", source)
        values = columns(store, pool).values("turns")
        wanted = {r["number"]: r["turns"] or [] for r in source}
        numbers = pool.column("number").to_pylist()
        got = [values.values[a:b].tolist() for a, b in pairwise(values.indptr)]
        assert got == [wanted[n] for n in numbers]
        assert missing(values).tolist() == [not wanted[n] for n in numbers]
