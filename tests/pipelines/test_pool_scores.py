"""Signals that need all rows, rows to resemble, labels with their points, and nested columns."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from tamis.errors import DataError, RecipeError
from tamis.pipelines import pool_scores
from tamis.pipelines import run as running
from tamis.pipelines.columns import Columns
from tamis.recipe import build
from tamis.scoring.base import PoolColumns, Rows
from tamis.storage.artifact import Store
from tamis.storage.catalogue import OpenStore


@dataclass(frozen=True)
class Rank:
    """The place of a row's value among all rows, and the letters of its question as labels."""

    column: str
    calls: list[int] = field(default_factory=list)
    name: ClassVar[str] = "rank"
    version: ClassVar[int] = 1
    fields: ClassVar[tuple[str, ...]] = ("place", "labels")
    about: ClassVar[Mapping[str, str]] = {}

    def needs(self) -> frozenset[str]:
        return frozenset({self.column})

    def identity(self) -> Mapping[str, Any]:
        return {"column": self.column}

    def score_pool(self, rows: Rows, *, advance: Any) -> PoolColumns:
        self.calls.append(rows.n)
        values = np.asarray(rows.columns[self.column], dtype=np.float64)
        labels = np.empty(rows.n, dtype=object)
        for i, text in enumerate(rows.texts("user")):
            labels[i] = sorted(set(text))
        names = np.array(sorted({x for row in labels for x in row}), dtype=object)
        points = np.eye(len(names), dtype=np.float32)
        place = np.argsort(np.argsort(values, kind="stable")).astype(np.float64)
        return PoolColumns(
            {"place": place, "labels": labels},
            {"name": names, "embedding": points},
            {"rows": rows.n},
        )


def test_values_belong_to_their_rows_whatever_the_files(make_context: Any, put_rows: Any) -> None:
    rows = [{"question": f"q{i}", "answer": "a", "level": float(-i)} for i in range(7)]
    context, pool = make_context(), put_rows("pool", rows, parts=3)
    scorer = Rank("level")
    fingerprint, done = pool_scores.score(context, pool, "rank", scorer, {})
    assert not done
    columns = Columns(context.store, pool, {"rank": fingerprint}, context.say)
    level = columns.values("level")
    assert np.array_equal(columns.values("rank.place"), np.argsort(np.argsort(level)))
    labels = columns.values("rank.labels")
    origin = [int(o.partition(":")[2]) - 1 for o in pool.column("origin").to_pylist()]
    starts = labels.indptr
    for row, number in enumerate(origin):
        assert labels.values[starts[row] : starts[row + 1]].tolist() == sorted({"q", str(number)})
    table = columns.labels("rank.labels")
    assert table is not None and table["name"].tolist() == ["0", "1", "2", "3", "4", "5", "6", "q"]
    assert np.array_equal(table["embedding"], np.eye(8))
    assert columns.scorer("rank.labels") == "rank"


def test_it_is_stored_for_this_pool_alone(make_context: Any, put_rows: Any) -> None:
    rows = [{"question": f"q{i}", "answer": "a", "level": float(i)} for i in range(4)]
    scorer = Rank("level")
    context, first = make_context(), put_rows("pool", rows)
    one, _ = pool_scores.score(context, first, "rank", scorer, {})
    again, done = pool_scores.score(context, first, "rank", scorer, {})
    assert (again, done, scorer.calls) == (one, True, [4])
    more = [*rows, {"question": "q9", "answer": "a", "level": -1.0}]
    grown = put_rows("pool", more)
    other, done = pool_scores.score(context, grown, "rank", scorer, {})
    assert other != one and not done and scorer.calls == [4, 5]


def test_copies_of_one_content_may_have_different_values(make_context: Any, put_rows: Any) -> None:
    rows = [{"question": "q", "answer": "a", "level": float(i)} for i in range(3)]
    context, pool = make_context(), put_rows("pool", rows)
    fingerprint, _ = pool_scores.score(context, pool, "rank", Rank("level"), {})
    columns = Columns(context.store, pool, {"rank": fingerprint}, context.say)
    assert sorted(columns.values("rank.place")) == [0, 1, 2]
    asked = OpenStore(context.store).sql(
        "select level, rank.place as place, rank.labels as labels from signals order by 1"
    )
    assert asked.to_pylist() == [
        {"level": float(i), "place": float(i), "labels": ["q"]} for i in range(3)
    ]
    long = OpenStore(context.store).sql("select distinct signal from signals_long")
    assert long.column("signal").to_pylist() == ["rank.place"]


def test_they_come_after_what_they_read() -> None:
    scorers = {
        "a": Rank("b.place"),
        "b": Rank("c.place"),
        "c": Rank("level"),
        "level": Rank("level"),
    }
    order = pool_scores.ordered(scorers)
    assert order.index("c") < order.index("b") < order.index("a")
    with pytest.raises(RecipeError, match=r"in a circle: [ab] -> [ab] -> [ab]"):
        pool_scores.ordered({"a": Rank("b.place"), "b": Rank("a.place")})


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    topics = ["cooking pasta with garlic", "train engines and rails", "linear algebra proofs"]
    pool = [
        {
            "instruction": f"Tell me of {topics[i % 3]}, part {i}",
            "output": f"It is about {topics[i % 3]}.",
            "topic": topics[i % 3].split()[0],
            "annotation": {
                "tags": [topics[i % 3], "telling"] if i % 5 else [],
                "scores": [1.0 + i % 3, 2.0],
            },
        }
        for i in range(30)
    ]
    target = [
        {"instruction": f"Question {i} on locomotives", "output": "Rails carry the train engine."}
        for i in range(6)
    ]
    return {
        "pool": write(tmp_path / "pool.jsonl", pool),
        "target": write(tmp_path / "target.jsonl", target),
        "store": str(tmp_path / "store"),
    }


def quiet(title: str, total: int) -> AbstractContextManager[Any]:
    return nullcontext(lambda n: None)


def select(files: dict[str, str], **blocks: Any) -> tuple[Store, dict[str, Any], list[str]]:
    """Run a recipe up to its selection: the facts, and the topics that were picked."""
    recipe = build(
        {"sources": {"pool": {"path": files["pool"]}}, "store": files["store"], **blocks},
        where="test",
    )
    said: list[str] = []
    ctx = running.context(recipe, say=said.append, progress=quiet)
    summary = running.run(ctx, until="select")
    key = summary.keys["chosen/selection"]
    rows = OpenStore(ctx.store).sql(
        "select p.topic from selections s join samples p using (id) "
        "where s.selection = $key and s.kept order by s.rank",
        {"key": key},
    )
    return ctx.store, summary.facts("select")["chosen"], rows.column("topic").to_pylist()


@pytest.mark.parametrize("method", ["gotd", "goracs"])
def test_a_target_draws_the_selection(files: dict[str, str], method: str) -> None:
    _, facts, topics = select(
        files,
        scores={"embed": {}},
        target={"path": files["target"]},
        select={"method": method, "budget": {"rows": 6}},
    )
    assert facts["target_rows"] == 6 and facts["target_dropped"] == 0
    assert topics == ["train"] * 6


def test_the_target_is_part_of_what_a_selection_depends_on(files: dict[str, str]) -> None:
    blocks = {
        "scores": {"embed": {}},
        "select": {"method": "gotd", "budget": {"rows": 6}},
    }
    select(files, target={"path": files["target"]}, **blocks)
    store, _, _ = select(files, target={"path": files["target"], "limit": 3}, **blocks)
    assert len(store.all("selections")) == 2
    # The rows of a target are not the pool's.
    assert OpenStore(store).sql("select count(*) n from samples").to_pylist() == [{"n": 30}]


def test_a_method_without_its_target_says_so_before_any_work(files: dict[str, str]) -> None:
    blocks = {"scores": {"embed": {}}, "select": {"method": "gotd", "budget": {"rows": 6}}}
    with pytest.raises(RecipeError, match="gotd needs a target: add the block target"):
        select(files, **blocks)
    blocks["select"] = {"method": "random", "budget": {"rows": 6}}
    with pytest.raises(RecipeError, match="random takes no target"):
        select(files, target={"path": files["target"]}, **blocks)
    assert not (Path(files["store"]) / "samples").exists()


def test_a_target_reaches_the_method_inside_a_quota(files: dict[str, str]) -> None:
    _, facts, topics = select(
        files,
        scores={"embed": {}},
        target={"path": files["target"]},
        select={
            "method": "quota",
            "options": {"by": ["source"], "method": "gotd"},
            "budget": {"rows": 6},
        },
    )
    assert facts["target_rows"] == 6 and topics == ["train"] * 6


LABELS = {
    "family": {"scorer": "metadata", "options": {"columns": ["topic"]}},
    "tags": {"options": {"column": "extra.annotation.tags"}},
    "clusters": {"options": {"clusters": 3, "most": 1}},
    "keywords": {"options": {"least": 2, "share": 0.5}},
    "taxonomy": {"options": {"names": ["cooking food", "railway", "mathematics"], "most": 1}},
}


@pytest.mark.parametrize("source", sorted(LABELS))
def test_mig_takes_its_labels_from_any_source_and_says_which(
    files: dict[str, str], source: str
) -> None:
    _, facts, topics = select(
        files,
        scores={"embed": {}, "length": {}, source: LABELS[source]},
        select={
            "method": "mig",
            "options": {
                "labels": f"{source}.labels",
                "score": "length.turns",
                "threshold": 0.99,
            },
            "budget": {"rows": 3},
        },
    )
    assert sorted(topics) == ["cooking", "linear", "train"]
    assert facts[f"made_by.{source}.labels"] == LABELS[source].get("scorer", source)
    # Rows without a tag are not dropped: they come last.
    assert facts["eligible"] == 30


def test_lists_inside_extra_are_columns(files: dict[str, str]) -> None:
    _, facts, topics = select(
        files,
        scores={"embed": {}},
        select={
            "method": "deita",
            "options": {"scores": ["extra.annotation.scores"], "tau": 1.0},
            "budget": {"rows": 10},
        },
    )
    assert topics == ["linear"] * 10 and facts["eligible"] == 30
    with pytest.raises((DataError, RecipeError), match=r"extra\.annotation"):
        select(
            files,
            scores={"embed": {}},
            select={
                "method": "deita",
                "options": {"scores": ["extra.annotation"]},
                "budget": {"rows": 10},
            },
        )


def test_the_tokens_of_another_recipe_do_not_decide_what_may_be_picked(
    files: dict[str, str], tiny_lm: Callable[..., Path]
) -> None:
    model = {"lm": {"path": str(tiny_lm()), "prompt_style": "chat"}}
    blocks = {"select": {"method": "random", "budget": {"rows": 5}}}
    # So short a cut-off leaves no row a token to train on.
    short = {"tokens": {"model": "lm", "options": {"max_length": 8}}}
    _, facts, _ = select(files, models=model, scores=short, **blocks)
    assert facts["dropped"] == {"no_trained_token": 30}
    _, facts, _ = select(files, scores={"length": {}}, **blocks)
    assert facts["eligible"] == 30 and "total_tokens" not in facts
