"""Filters by share: of all rows that are left, or of those of their source and language."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tamis.errors import DataError, RecipeError
from tamis.pipelines.columns import Columns
from tamis.pipelines.context import Context
from tamis.pipelines.filters import passes
from tamis.pipelines.pool import Snapshot
from tamis.pipelines.select import select
from tamis.recipe import Filter, Select, build
from tamis.scoring.base import Rows
from tamis.scoring.transforms.rank import Rank
from tamis.storage.artifact import Store

Put = Callable[..., Snapshot]


def table(
    store: Store, put_rows: Put, values: Sequence[Any], **more: Sequence[Any]
) -> tuple[Columns, np.ndarray]:
    """The columns of a pool with these numbers, and the number of each of its rows."""
    rows = [
        {
            "question": f"q{i} {v}",
            "answer": "a",
            "at": i,
            "value": v,
            **{k: w[i] for k, w in more.items()},
        }
        for i, v in enumerate(values)
    ]
    pool = put_rows("a", rows)
    return Columns(store, pool, {}, lambda _: None), np.array(pool.column("at").to_pylist())


def kept(
    rule: Filter, columns: Columns, at: np.ndarray, left: np.ndarray | None = None
) -> set[int]:
    standing = np.ones(len(at), dtype=bool) if left is None else left[at]
    values = columns.values(rule.column)
    return set(at[passes(rule, columns, standing) & standing & ~np.isnan(values)].tolist())


def test_a_share_of_all_rows(store: Store, put_rows: Put) -> None:
    columns, at = table(store, put_rows, [float(v) for v in range(40)])
    assert kept(Filter(column="value", lowest_percent=10), columns, at) == {0, 1, 2, 3}
    assert kept(Filter(column="value", highest_percent=5), columns, at) == {38, 39}
    assert kept(Filter(column="value", lowest_percent=100), columns, at) == set(range(40))
    assert kept(Filter(column="value", lowest_percent=0), columns, at) == set()
    both = Filter(column="value", lowest_percent=10, min=2)
    assert kept(both, columns, at) == {2, 3}
    # Equal rows stay or go together: none of the ties is favoured.
    columns, at = table(store, put_rows, [1.0] * 30 + [2.0] * 10)
    assert kept(Filter(column="value", lowest_percent=30), columns, at) == set()
    assert kept(Filter(column="value", lowest_percent=40), columns, at) == set(range(30))


def test_only_rows_that_are_left_are_counted(store: Store, put_rows: Put) -> None:
    columns, at = table(store, put_rows, [float(v) for v in range(40)])
    left = np.arange(40) >= 20
    assert kept(Filter(column="value", lowest_percent=10), columns, at, left) == {20, 21}


def test_a_share_of_the_rows_of_each_source_and_language(store: Store, put_rows: Put) -> None:
    rng = np.random.default_rng(0)
    family = [["code", "prose"][i % 2] for i in range(400)]
    lang = [["en", "zh", None][i % 3] for i in range(400)]
    family[:3], lang[:3] = ["rare"] * 3, ["en"] * 3
    scale = {"code": 10.0, "prose": 1.0, "rare": 0.1}
    values = [float(rng.normal() + scale[f]) for f in family]
    columns, at = table(store, put_rows, values, family=family, lang=lang)
    rule = Filter(column="value", lowest_percent=25, within=["family", "lang"])
    found = kept(rule, columns, at)
    for cell in {(f, x) for f, x in zip(family, lang, strict=True) if f != "rare"}:
        rows = [i for i in range(400) if (family[i], lang[i]) == cell]
        best = sorted(rows, key=lambda i: values[i])[: len(rows) // 4]
        assert found & set(rows) == set(best), cell
    # Three rows are no group: they are judged among all rows, and theirs are the lowest.
    order = np.argsort(np.argsort(values))
    assert found & {0, 1, 2} == {i for i in range(3) if (order[i] + 1) / 400 <= 0.25}
    rank = Rank(column="value", within=("family", "lang"))
    names = ("value", "family", "lang")
    given = Rows(400, {n: np.asarray(columns.values(n)) for n in names}, lambda: iter(()))
    ranked = rank.score_pool(given, advance=lambda _: None).columns["value"]
    assert set(at[ranked <= 0.25].tolist()) == found


def test_a_selection_counts_what_a_share_drops(
    store: Store, put_rows: Put, make_context: Callable[..., Context]
) -> None:
    values = [float(v) for v in range(40)] + [None] * 3
    columns, at = table(store, put_rows, values)
    rules = [Filter(column="value", min=20), Filter(column="value", highest_percent=50)]
    choice = Select.model_validate({"method": "random", "budget": {"percent": 100}})
    nobody = np.zeros(len(at), dtype=bool)
    chosen, _ = select(make_context(), columns, choice, rules, nobody)
    assert chosen.facts["dropped"] == {"filter:value": 30, "null:value": 3}
    rows = pa.parquet.read_table(chosen.path / "rows.parquet")
    ids = columns.pool.ids.to_pylist()
    taken = {
        ids.index(i)
        for i, k in zip(*rows.select(["id", "kept"]).to_pydict().values(), strict=True)
        if k
    }
    assert {int(at[i]) for i in taken} == set(range(30, 40))


def test_wrong_rules_are_refused(store: Store, put_rows: Put) -> None:
    def read(**rule: Any) -> None:
        build({"sources": {"a": {"stored": True}}, "filters": [{"column": "x", **rule}]}, where="r")

    with pytest.raises(RecipeError, match="one of lowest_percent and highest_percent"):
        read(lowest_percent=10, highest_percent=10)
    with pytest.raises(RecipeError, match="within is for"):
        read(min=1, within=["source"])
    with pytest.raises(RecipeError, match="a filter needs"):
        read()
    with pytest.raises(RecipeError, match="less than or equal to 100"):
        read(lowest_percent=101)
    columns, at = table(store, put_rows, [1.0, 2.0], word=["x", "y"])
    with pytest.raises(DataError, match="holds texts"):
        passes(Filter(column="word", lowest_percent=10), columns, at >= 0)
    with pytest.raises(DataError, match="several values a row"):
        passes(Filter(column="messages", min=1), columns, at >= 0)
