"""Refining in a run: a new version, nothing else moved, and what was changed told."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import orjson
import pyarrow.parquet as pq
import pytest

from tamis.errors import RecipeError
from tamis.language.exchange import exchange
from tamis.pipelines import refine as refining
from tamis.pipelines import run as running
from tamis.pipelines.columns import Columns
from tamis.recipe import build
from tamis.refiners import registry
from tamis.refiners.base import Refined
from tamis.samples import content_key, sample_id
from tamis.storage.artifact import Store
from tamis.storage.catalogue import OpenStore

ROWS = 120


@dataclass(frozen=True)
class Louder:
    """Answers of even rows in capitals; drops those above 100 by their standing."""

    name = "louder"
    version = 1
    calls: ClassVar[list] = []

    def needs(self):
        return frozenset({"length.answer_chars"})

    def identity(self):
        return {"model": {"files": "abc"}}

    def standing(self, columns, n):
        assert columns["length.answer_chars"].shape == (n,)
        return np.full(n, "keep", dtype=object), np.full(n, True)

    def refine(self, rows, *, advance):
        self.calls.append([row.key for row in rows])
        found = []
        for row in rows:
            pair = exchange(row.messages, row.tools)
            number = int(pair.request.split()[1])
            if number % 2:
                found.append(Refined(None, "odd", before=pair.answer))
                continue
            new = pair.answer.upper()
            found.append(
                Refined("correct", "even", pair.answered(new), pair.answer, new, new, {"p": 0.9})
            )
        advance(len(rows))
        return found


@pytest.fixture(scope="module")
def model(tiny_lm):
    return str(tiny_lm())


@pytest.fixture
def files(tmp_path, model):
    rows = [
        {"instruction": f"say {i}", "output": f"it is {i}", "family": "ab"[i % 2]}
        for i in range(ROWS)
    ]
    # A copy; a row that has another's new answer already; one that is refined to what it was.
    rows += [rows[2], {"instruction": "say 4", "output": "IT IS 4"}]
    rows += [{"instruction": "say 200", "output": "IT IS 200"}]
    path = tmp_path / "pool.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return {"pool": str(path), "lm": model, "store": tmp_path / "store"}


@pytest.fixture
def louder(monkeypatch):
    Louder.calls.clear()
    monkeypatch.setattr(registry, "build", lambda method, **given: Louder())
    return Louder


def run(files, until="refine", stored=False, **blocks):
    content = {
        "store": str(files["store"]),
        "sources": {"pool": {"stored": True} if stored else {"path": files["pool"]}},
        "models": {"lm": {"path": files["lm"], "prompt_style": "chat"}},
        "scores": {"length": {}},
        "refine": {"method": "clear_correct", "model": "lm"},
        **blocks,
    }
    ctx = running.context(
        build(content, where="test"),
        say=lambda _: None,
        progress=lambda *_: nullcontext(lambda n: None),
    )
    return running.run(ctx, until=until)


def tables(summary, store):
    key = summary.keys["samples/pool"]
    version = Store(store).get("samples", key)
    before = Store(store).get("samples", version.seal["inputs"]["refined_from"])
    return [pq.read_table(a.path / "part-00000.parquet") for a in (before, version)]


def test_changed_rows_get_new_names_and_all_others_stay(files, louder):
    summary = run(files)
    old, new = tables(summary, files["store"])
    assert new.num_rows == old.num_rows == ROWS + 3
    changed = 0
    for was, now in zip(old.to_pylist(), new.to_pylist(), strict=True):
        text = was["messages"][1]["content"]
        number = int(was["messages"][0]["content"].split()[1])
        assert now["refine_reason"] == ("odd" if number % 2 else "even")
        if number % 2 or text.isupper():
            assert now["refined_from"] is None
            assert {name: now[name] for name in was} == was
        else:
            changed += 1
            assert now["messages"][1]["content"] == text.upper()
            assert now["refined_from"] == was["content_key"] != now["content_key"]
            turns = [{"role": m["role"], "content": m["content"]} for m in now["messages"]]
            assert now["content_key"] == content_key(turns)
            assert now["id"] == sample_id("pool", now["content_key"], now["occurrence"])
            kept = {"family", "licence", "origin", "shape", "tools", "source", "extra"}
            assert all(now[name] == was[name] for name in kept)
    assert len(set(new.column("id").to_pylist())) == new.num_rows
    # The copy follows its twin, and the new answer that was there already keeps its name.
    occurrences = {row["origin"]: row["occurrence"] for row in new.to_pylist()}
    assert occurrences["pool.jsonl:121"] == 1 and occurrences["pool.jsonl:5"] == 1
    assert occurrences["pool.jsonl:122"] == 0
    assert new.column_names[-1] == "extra"
    facts = summary.facts("refine")["pool"]
    assert facts["changed"] == changed == ROWS // 2 + 1
    assert facts["actions"] == {"correct": ROWS // 2 + 3, "keep": ROWS // 2}


def test_what_was_changed_can_be_asked(files, louder):
    run(files)
    asked = OpenStore(Store(files["store"]))
    table = asked.sql(
        "select r.before, r.after, r.reason, r.confidences, r.method, r.model, r.model_identity, "
        "s.refined_from from refinements r join samples s using (id) where r.after is not null"
    ).to_pylist()
    assert len(table) == ROWS // 2 + 1
    for row in table:
        assert row["after"] == row["before"].upper() and row["refined_from"] is not None
        assert orjson.loads(row["confidences"]) == {"p": 0.9}
        assert (row["method"], row["model"], row["reason"]) == ("louder", "lm", "even")
        assert orjson.loads(row["model_identity"]) == {"files": "abc"}
    left = asked.sql("select count(*) n from refinements where after is null").to_pylist()
    assert left == [{"n": ROWS // 2 + 2}]
    # Changed rows are scored too.
    missing = asked.sql("select count(*) n from signals where length.answer_chars is null")
    assert missing.to_pylist() == [{"n": 0}]


def test_the_second_run_asks_nothing(files, louder):
    first = run(files)
    calls = len(louder.calls)
    assert len({key for call in louder.calls for key in call}) == ROWS + 2
    again = run(files)
    stored = run(files, stored=True)
    assert len(louder.calls) == calls
    assert first.keys["samples/pool"] == again.keys["samples/pool"] == stored.keys["samples/pool"]
    (outcome,) = [o for o in again.outcomes if o.stage == "refine"]
    assert (outcome.reused, outcome.computed) == (1, 0)


def test_a_killed_run_goes_on_where_it_was(files, louder, monkeypatch):
    real = Louder.refine

    def killed(self, rows, *, advance):
        if len(self.calls) == 1:
            raise KeyboardInterrupt
        return real(self, rows, advance=advance)

    monkeypatch.setattr(Louder, "refine", killed)
    with pytest.raises(KeyboardInterrupt):
        run(files)
    assert len(louder.calls) == 1
    monkeypatch.setattr(Louder, "refine", real)
    run(files)
    asked = [key for call in louder.calls for key in call]
    assert len(asked) == len(set(asked)) == ROWS + 2


def test_held_out_rows_are_not_touched_and_stay_held_out(files, louder):
    evaluate = {
        "select": {"method": "random", "budget": {"rows": 10}},
        "tune": {"model": "lm"},
        "evaluate": {"holdout_percent": 40, "max_new_tokens": 0},
    }
    summary = run(files, until="select", **evaluate)
    _, new = tables(summary, files["store"])
    held = {r["content_key"] for r in new.to_pylist() if r["refine_action"] == "held_out"}
    assert len(held) >= 40
    asked = {key for call in louder.calls for key in call}
    assert not held & asked
    reasons = OpenStore(Store(files["store"])).sql(
        "select s.content_key, x.reason from selections x join samples s using (id)"
    )
    got = {r["content_key"] for r in reasons.to_pylist() if r["reason"] == "held_out"}
    assert got == held


def test_a_filter_leaves_out_what_was_not_corrected(files, louder):
    blocks = {
        "filters": [{"column": "refine_action", "is_in": ["correct"]}],
        "select": {"method": "random", "budget": {"percent": 100}},
    }
    facts = run(files, until="select", **blocks).facts("select")["chosen"]
    assert facts["kept"] == ROWS // 2 + 3
    assert facts["dropped"] == {"filter:refine_action": ROWS // 2}


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"model": "gone"}, "no entry 'gone'"),
        ({"model": "lm", "options": {"etta": 1}}, "no option 'etta'"),
        ({"model": "lm", "options": {"eta": "high"}}, "eta='high'"),
        ({"model": "lm", "options": {"max_new_tokens": 8}}, "a score called clear"),
        ({"model": "after", "options": {"max_new_tokens": 8}}, "folds must be 1"),
    ],
)
def test_wrong_blocks_are_told_before_any_work(files, block, message):
    tuned = {"after": {"model": "lm", "folds": 2}}
    with pytest.raises(RecipeError, match=message):
        run(files, refine={"method": "clear_correct", **block}, tuned=tuned)


def test_the_whole_chain_with_a_tuned_model(files, monkeypatch):
    """Score by clear, correct by a model that is tuned on the pool, filter by the median."""
    monkeypatch.setattr("tamis.numerics.options.LEAST_MASS", 0.0)
    config = Path(files["lm"]) / "config.json"
    content = json.loads(config.read_text())
    config.write_text(json.dumps({**content, "max_position_embeddings": 1024}))
    summary = run(
        files,
        until="select",
        sources={"pool": {"path": files["pool"], "limit": 30}},
        models={"lm": {"path": files["lm"], "prompt_style": "chat"}},
        tuned={"after": {"model": "lm", "method": "full", "learning_rate": 0.01, "max_steps": 2}},
        scores={
            "clear": {"model": "lm", "options": {"samples": 0}},
            "clear_filter": {},
        },
        refine={
            "method": "clear_correct",
            "model": "after",
            "options": {"eta": 0.0, "max_new_tokens": 6},
        },
        filters=[{"column": "clear_filter.keep", "is_in": [True]}],
        select={"method": "random", "budget": {"percent": 100}},
    )
    facts = summary.facts("refine")["pool"]
    assert set(facts["actions"]) <= {"keep", "correct", "drop"}
    assert sum(facts["actions"].values()) == 30
    assert 0 < summary.facts("select")["chosen"]["kept"] <= 15


def test_the_model_that_writes_is_tuned_on_the_rows_that_pass_its_filters(files, louder):
    """As in the paper: score, filter, tune, correct."""
    rule = {"column": "length.answer_chars", "min": 9}
    after = {"model": "lm", "method": "full", "max_steps": 1, "filters": [rule]}
    block = {"method": "clear_correct", "model": "after"}
    summary = run(files, refine=block, tuned={"after": after})
    old, _ = tables(summary, files["store"])
    answers = {row["id"]: row["messages"][1]["content"] for row in old.to_pylist()}
    (chosen,) = files["store"].glob("selections/*/rows.parquet")
    rows = pq.read_table(chosen).to_pylist()
    assert {row["id"] for row in rows} == set(answers)
    assert all(row["kept"] == (len(answers[row["id"]]) >= 9) for row in rows)
    assert sum(row["kept"] for row in rows) == 21


def test_a_model_that_scores_takes_no_filters(files, louder):
    after = {"model": "lm", "filters": [{"column": "length.answer_chars", "min": 10}]}
    scores = {"length": {}, "nll": {"model": "after"}}
    with pytest.raises(RecipeError, match="filters read scores"):
        run(files, tuned={"after": after}, scores=scores)


def test_a_filter_of_the_model_that_writes_needs_its_score(files, louder):
    after = {"model": "lm", "filters": [{"column": "ifd.loss_ratio", "max": 1}]}
    with pytest.raises(RecipeError, match=r"ifd\.loss_ratio needs a score 'ifd'"):
        run(files, refine={"method": "clear_correct", "model": "after"}, tuned={"after": after})


def test_outcomes_are_the_same_whatever_is_asked_with_them(files, louder, monkeypatch):
    first = run(files).keys["samples/pool"]
    new = tables(run(files), files["store"])[1]
    monkeypatch.setattr(refining, "CHUNK_ROWS", 7)
    elsewhere = {**files, "store": files["store"].with_name("other")}
    summary = run(elsewhere)
    assert summary.keys["samples/pool"] == first
    assert tables(summary, elsewhere["store"])[1].equals(new)


def test_the_command_tells_what_it_did(files, louder):
    from typer.testing import CliRunner

    from tamis.cli import app

    recipe = files["store"].with_name("recipe.yaml")
    models = {"lm": {"path": files["lm"], "prompt_style": "chat"}}
    content = {
        "store": str(files["store"]),
        "sources": {"pool": {"path": files["pool"]}},
        "models": models,
        "scores": {"length": {}},
        "refine": {"method": "clear_correct", "model": "lm"},
    }
    recipe.write_text(json.dumps(content))
    done = CliRunner().invoke(app, ["refine", str(recipe), "--json"])
    told = json.loads(done.stdout)["pool"]
    assert (told["method"], told["changed"]) == ("louder", ROWS // 2 + 1)
    assert told["reasons"] == {"even": ROWS // 2 + 3, "odd": ROWS // 2}
    without = {k: v for k, v in content.items() if k != "refine"}
    recipe.write_text(json.dumps(without))
    done = CliRunner().invoke(app, ["refine", str(recipe)])
    assert done.exit_code == 1 and "no stage 'refine'" in str(done.exception)


def test_parts_and_sources_count_contents_together(louder, put_rows, make_context, monkeypatch):
    """A new content gets one occurrence after another, over all parts of its source."""
    monkeypatch.setattr(louder, "needs", lambda self: frozenset())
    monkeypatch.setattr(
        louder,
        "standing",
        lambda self, columns, n: (np.full(n, "keep", dtype=object), np.full(n, True)),
    )
    texts = ["aa", "AA", "Aa", "aA", "bb", "AA"]
    rows = [{"question": "say 2", "answer": text} for text in texts]
    put_rows("one", rows, parts=3)
    pool = put_rows("two", rows[:1])
    models = {"lm": {"path": "unused", "prompt_style": "plain"}}
    ctx = make_context(models=models, refine={"method": "s3ft", "model": "lm"})
    monkeypatch.setattr(refining, "_model", lambda *_: None)
    monkeypatch.setattr(refining, "_built", lambda *_: Louder())
    made = refining.refine(
        ctx, Columns(ctx.store, pool, {}, ctx.say), np.zeros(len(pool), dtype=bool)
    )
    version, _ = made["one"]
    parts = sorted(version.path.glob("part-*.parquet"))
    assert len(parts) == 3
    new = [row for part in parts for row in pq.read_table(part).to_pylist()]
    got = [(row["messages"][1]["content"], row["occurrence"], row["duplicate"]) for row in new]
    assert got == [
        ("AA", 2, True),  # two rows had it already
        ("AA", 0, False),
        ("AA", 3, True),
        ("AA", 4, True),
        ("BB", 0, False),
        ("AA", 1, True),
    ]
    assert len({row["id"] for row in new}) == 6
    assert version.facts["changed"] == 4
    assert made["two"][0].facts["changed"] == 1
    version.verify()
