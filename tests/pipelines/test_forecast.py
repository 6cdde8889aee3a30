"""`tamis run --plan` tells what the run then does, and leaves the store alone."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import yaml

from tamis.language.tally import counted
from tamis.pipelines import compare as comparing
from tamis.pipelines.context import Context
from tamis.pipelines.forecast.chain import forecast, forecast_comparison
from tamis.pipelines.forecast.lines import lines
from tamis.pipelines.run import Summary, run
from tamis.recipe import Recipe
from tamis.storage.artifact import Store

COUNTS = ("reused", "computed")
SHORT = {"column": "length.answer_chars"}
READ = ("passes", "tokens")


def rows(n: int = 48) -> list[dict[str, str]]:
    """Questions and answers of many lengths; some stand twice."""
    made = [
        {"instruction": f"Say {i} in words.", "output": "ab"[i % 2] * (3 + i % 17)}
        for i in range(n)
    ]
    return [*made, *made[:5]]


def blocks(model: Path, data: Path, **more: Any) -> dict[str, Any]:
    return {
        "sources": {"pool": {"path": str(data)}},
        "device": "cpu",
        "models": {"lm": {"path": str(model), "prompt_style": "chat"}},
        "scores": {"length": {}, "nll": {"model": "lm"}, "ifd": {"model": "lm"}},
        "select": {
            "method": "top",
            "options": {"column": "length.answer_chars"},
            "budget": {"rows": 20},
        },
        "tune": {"model": "lm", "rows_per_step": 8, "epochs": 2.0},
        "evaluate": {"holdout_percent": 20, "max_new_tokens": 4, "bootstrap": 100},
        **more,
    }


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows())), encoding="utf-8")
    return path


@pytest.fixture
def context(
    tmp_path: Path, data: Path, tiny_lm: Callable[..., Path], no_progress: Any
) -> Callable[..., Context]:
    """A context over the same store and model, with other blocks where given."""
    model = tiny_lm()

    def make(**more: Any) -> Context:
        given = {k: v for k, v in blocks(model, data, **more).items() if v is not None}
        recipe = Recipe.model_validate(given)
        return Context(recipe, Store(tmp_path / "store"), "cpu", lambda _: None, no_progress)

    return make


def files(root: Path) -> dict[str, int]:
    """Every file of a folder and when it was changed."""
    return {str(p): p.stat().st_mtime_ns for p in sorted(root.rglob("*")) if p.is_file()}


def same(told: Mapping[str, Any], done: Summary) -> None:
    """Every count of the forecast is that of the run."""
    assert [s["stage"] for s in told["stages"]] == [o.stage for o in done.outcomes]
    for stage, outcome in zip(told["stages"], done.outcomes, strict=True):
        assert stage["exact"], stage
        for name in COUNTS:
            assert stage[name] == getattr(outcome, name), (stage["stage"], name)
        for name in READ:
            assert stage["read"][name] == getattr(outcome.read, name), (stage["stage"], name)
        assert stage["read"]["written"] >= outcome.read.written


def test_counts_are_those_of_the_run_before_between_and_after(
    context: Callable[..., Context], tmp_path: Path, data: Path
) -> None:
    ctx = context()
    told = forecast(ctx).document()
    assert not (tmp_path / "store").exists()
    done = run(ctx)
    same(told, done)
    tune = next(s for s in told["stages"] if s["stage"] == "tune")
    for work in tune["work"]:
        facts = done.facts("tune")[work["what"]]
        assert (work["steps"], work["read"]["passes"], work["read"]["tokens"]) == (
            facts["steps"],
            facts["rows_seen"],
            facts["tokens_seen"],
        )
        assert work["seconds"] > 0
    assert told["all"]["tunings"] == 2
    assert told["not_timed"] == []
    assert told["leaves"] == []

    before = files(tmp_path / "store")
    again = forecast(ctx).document()
    assert files(tmp_path / "store") == before
    assert again["all"]["read"] == {"passes": 0, "tokens": 0, "written": 0}
    assert again["all"]["computed"] == 1  # the page
    same(again, run(ctx))

    # New rows, one more signal of the same model, one of the old ones in use.
    more = [{"instruction": "New?", "output": "Yes" * i} for i in range(1, 6)]
    with data.open("a", encoding="utf-8") as file:
        file.write("\n" + "\n".join(map(json.dumps, more)))
    other = context(
        scores={
            "length": {},
            "nll": {"model": "lm"},
            "ifd": {"model": "lm"},
            "perplexity": {"model": "lm"},
        }
    )
    partly = forecast(other).document()
    score = next(s for s in partly["stages"] if s["stage"] == "score")
    assert score["reused"] > 0 < score["computed"]
    same(partly, run(other))


def test_a_selection_by_values_to_come_is_an_estimate(context: Callable[..., Context]) -> None:
    ctx = context(
        select={"method": "top", "options": {"column": "nll.mean"}, "budget": {"rows": 20}},
        filters=[
            {"column": "length.answer_chars", "min": 5},
            {"column": "ifd.loss_ratio", "max": 9},
        ],
    )
    told = forecast(ctx).document()
    stages = {s["stage"]: s for s in told["stages"]}
    assert stages["score"]["exact"]
    assert not any(stages[n]["exact"] for n in ("select", "export", "tune", "evaluate"))
    chosen = stages["select"]["work"][0]
    assert chosen["rows"] == 20
    assert "ifd, nll" in chosen["how"]
    assert told["not_timed"] == ["select chosen"]
    assert any("random rows stand in for top" in note for note in told["notes"])
    run(ctx, until="score")
    after = forecast(ctx).document()
    same(after, run(ctx))


def test_models_that_are_tuned_first_are_counted_with_their_folds(
    context: Callable[..., Context],
) -> None:
    small = {"model": "lm", "max_steps": 2, "rows_per_step": 4}
    ctx = context(
        tuned={"own": {**small, "folds": 2}},
        scores={
            "length": {},
            "own": {"scorer": "nll", "model": "own"},
            "rank": {"options": {"column": "own.mean"}},
        },
        tune=None,
        evaluate=None,
    )
    told = forecast(ctx).document()
    assert told["all"]["tunings"] == 2
    score = told["stages"][1]
    done = run(ctx)
    same({"stages": told["stages"]}, done)
    assert {"own", "rank", "length"} <= {w["what"] for w in score["work"]}
    again = forecast(ctx).document()
    assert again["all"]["tunings"] == 0
    same(again, run(ctx))


def test_nothing_is_sent_to_a_server_and_what_would_be_is_told(
    context: Callable[..., Context], serve: Callable[..., str]
) -> None:
    url = serve(reply=["4"])
    ctx = context(
        models={
            "far": {"endpoint": {"url": url, "model": "big"}, "prompt_style": "chat"},
        },
        scores={"judge": {"model": "far"}, "length": {}},
        tune=None,
        evaluate=None,
        export={"folder": "s3://bucket/chosen"},
    )
    told = forecast(ctx).document()
    assert any(url in line and "texts of rows are sent" in line for line in told["leaves"])
    assert any("s3://bucket/chosen" in line for line in told["leaves"])
    judge = next(w for w in told["stages"][1]["work"] if w["what"] == "judge")
    assert judge["computed"] == 48
    assert judge["seconds"] is None
    assert "score judge" in told["not_timed"]
    with urlopen(url.removesuffix("/v1")) as answer:
        assert json.load(answer)["requests"] == []


def test_rows_on_another_machine_are_not_fetched(context: Callable[..., Context]) -> None:
    told = forecast(context(sources={"pool": {"path": "s3://bucket/rows.jsonl"}})).document()
    assert told["stages"] == []
    assert any("s3://bucket/rows.jsonl" in line for line in told["leaves"])
    assert any("when the run has fetched them" in note for note in told["notes"])


def test_cells_of_a_comparison_are_counted_and_found_again(
    context: Callable[..., Context],
) -> None:
    mine = {"shortest": {"method": "top", "options": {**SHORT, "largest": False}}}
    compare: dict[str, Any] = {"methods": mine, "budgets": [{"rows": 8}], "seeds": [0, 1]}
    given = {
        "scores": {"length": {}},
        "tune": {"model": "lm", "rows_per_step": 8, "max_steps": 1},
        "evaluate": {"holdout_percent": 20, "max_new_tokens": 0, "bootstrap": 100},
        "select": None,
    }
    ctx = context(**given, compare=compare)
    told = forecast_comparison(ctx).document()
    assert not ctx.store.root.exists()
    cells = next(s for s in told["stages"] if s["stage"] == "compare")
    with counted() as read:
        found = comparing.compare(ctx, jobs=1)
    assert cells["exact"]
    assert (cells["computed"], cells["reused"]) == (found.computed, found.reused) == (10, 0)
    assert told["all"]["tunings"] == len(ctx.store.all("models"))
    assert (told["all"]["read"]["passes"], told["all"]["read"]["tokens"]) == (
        read.passes,
        read.tokens,
    )

    more = context(**given, compare={**compare, "seeds": [0, 1, 2]})
    again = forecast_comparison(more).document()
    cells = next(s for s in again["stages"] if s["stage"] == "compare")
    before = len(ctx.store.all("models"))
    found = comparing.compare(more, jobs=1)
    assert (cells["computed"], cells["reused"]) == (found.computed, found.reused) == (5, 10)
    assert again["all"]["tunings"] == len(ctx.store.all("models")) - before


def test_random_rows_that_stand_in_are_not_taken_for_those_of_the_method_random(
    context: Callable[..., Context],
) -> None:
    given = {
        "tune": {"model": "lm", "rows_per_step": 8, "max_steps": 1},
        "evaluate": {"holdout_percent": 20, "max_new_tokens": 0, "bootstrap": 100},
    }
    run(context(select={"method": "random", "budget": {"rows": 8}}, scores={}, **given))
    by_nll = {"method": "top", "options": {"column": "nll.mean"}, "budget": {"rows": 8}}
    told = forecast(context(select=by_nll, **given)).document()
    tune = next(s for s in told["stages"] if s["stage"] == "tune")
    assert (tune["reused"], tune["computed"], told["all"]["tunings"]) == (0, 2, 2)


def test_the_command_tells_it_in_lines_and_as_json(
    context: Callable[..., Context], tmp_path: Path
) -> None:
    ctx = context(scores={"length": {}}, tune=None, evaluate=None)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(ctx.recipe.model_dump(exclude_none=True, mode="json")))
    store = ("--store", str(ctx.store.root))

    def tamis(*args: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "tamis", *args], capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    told = json.loads(tamis("run", str(recipe), *store, "--plan", "--json"))
    assert not ctx.store.root.exists()
    done = json.loads(tamis("run", str(recipe), *store, "--json"))
    for stage, ran in zip(told["stages"], done["stages"], strict=True):
        assert {n: stage[n] for n in COUNTS} == {n: ran[n] for n in COUNTS}
    shown = tamis("run", str(recipe), *store, "--plan")
    assert "score     reuses 53, computes 0" in shown
    assert "leaves this machine: nothing" in shown


def test_lines_mark_estimates_and_say_what_was_not_timed(context: Callable[..., Context]) -> None:
    ctx = context(
        select={"method": "top", "options": {"column": "nll.mean"}, "budget": {"rows": 20}},
        tune=None,
        evaluate=None,
    )
    shown = "\n".join(lines(forecast(ctx).document()))
    assert "chosen: ~20 rows" in shown
    assert "without select chosen" in shown
