"""Comparisons: cells that are reused, intervals, winners, warnings; with a trainer and an evaluator
that are commands, so that a cell takes no model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from tamis.cli import app
from tamis.errors import DataError, RecipeError, TamisError
from tamis.pipelines import compare
from tamis.pipelines.comparing import check, figures, overlap, table
from tamis.pipelines.comparing.cells import Cell, cells, recipe_of
from tamis.pipelines.run import context
from tamis.recipe import Budget, build
from tests.pipelines.conftest import NoProgress, silent

# A trainer that writes down how much it was given, and when it has begun; and an evaluator that
# reads it back.
TRAIN = """
import json, sys, time, pathlib
manifest, out = map(pathlib.Path, sys.argv[1:3])
told = json.loads((manifest / "manifest.json").read_text())
time.sleep(float(sys.argv[3]))
rows = sum(f["n_rows"] for f in told["files"] if f["split"] == "train")
(out / "rows.json").write_text(json.dumps([rows, int(told["content_hash"][:2], 16)]))
(out / "metrics.json").write_text(json.dumps({"loss": 1.0}))
"""
EVALUATE = """
import json, sys, pathlib
model, out = map(pathlib.Path, sys.argv[1:3])
rows, odd = json.loads((model / "rows.json").read_text())
(out / "metrics.json").write_text(json.dumps({"score": rows + odd / 1000, "other": 1}))
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, tiny_lm: Callable[..., Path]) -> Path:
    """A folder with rows, a model to count tokens with, a trainer and an evaluator."""
    folder = tmp_path_factory.mktemp("compare")
    words = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "one", "dog", "run", "far"]
    rows = [
        {"instruction": f"say {words[i % 11]} {i}", "output": " ".join(words[: i % 9 + 1])}
        for i in range(90)
    ]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "train.py").write_text(TRAIN)
    (folder / "evaluate.py").write_text(EVALUATE)
    (folder / "lm").symlink_to(tiny_lm())
    return folder


def recipe(work: Path, seconds: float = 0.0, **changed: Any) -> dict[str, Any]:
    python = sys.executable
    return {
        "name": "compared",
        "sources": {"pool": {"path": str(work / "rows.jsonl")}},
        "models": {"lm": {"path": str(work / "lm"), "prompt_style": "plain"}},
        "scores": {"length": {}, "tokens": {"model": "lm"}},
        "tune": {"command": f"{python} {work}/train.py {{manifest}} {{out}} {seconds}"},
        "evaluate": {"command": f"{python} {work}/evaluate.py {{model}} {{out}}"},
        "compare": {
            "methods": {"short": {"method": "top", "options": SHORT}},
            "budgets": [400],
            "seeds": [0, 1],
            "metric": "score",
            "better": "higher",
            **changed,
        },
    }


SHORT = {"column": "length.answer_chars", "largest": False}


def written(folder: Path, content: dict[str, Any]) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def start(path: Path, store: Path, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tamis", "compare", str(path), "--store", str(store), *args],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def compared(store: Path, content: dict[str, Any], jobs: int | None = None) -> dict[str, Any]:
    """Compare in this process; the document with the counts of cells, as --json prints it."""
    found = compare.compare(context_of({**content, "store": str(store)}), jobs=jobs)
    assert found.report is not None and Path(found.report).is_file()
    return {"computed": found.computed, "reused": found.reused, **found.document}


def context_of(content: dict[str, Any]) -> Any:
    return context(build(content, where="test"), say=silent, progress=NoProgress)


def timeless(document: dict[str, Any]) -> dict[str, Any]:
    """A document without what tells the run or its times."""
    left_out = ("run", "store", "report", "computed", "reused")
    kept = {k: v for k, v in document.items() if k not in left_out}
    lines = [{k: v for k, v in line.items() if k != "seconds"} for line in kept["lines"]]
    return {**kept, "lines": lines}


@pytest.fixture(scope="module")
def undisturbed(work: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A store in which the comparison was made, and its document."""
    store = tmp_path_factory.mktemp("plain") / "store"
    return store, compared(store, recipe(work))


def test_every_method_is_compared_with_every_baseline(undisturbed: tuple[Path, Any]) -> None:
    document = undisturbed[1]
    assert document["computed"] == 2 * 5
    assert {line["method"]: line["kind"] for line in document["lines"]} == {
        "random": "baseline",
        "stratified": "baseline",
        "length": "baseline",
        "short": "contestant",
        "full": "reference",
    }
    lines = {line["method"]: line for line in document["lines"]}
    assert lines["full"]["rows"] == 45  # the others are held out
    assert lines["short"]["rows"] > lines["random"]["rows"] > lines["length"]["rows"]
    for name in ("random", "stratified", "length", "short"):
        assert 0.9 * 400 < lines[name]["tokens"] <= 400
    each = lines["short"]["figures"]["score"]["each"]
    assert [int(x) for x in each] == [lines["short"]["rows"]] * 2
    # The score counts rows, so the method of short rows wins; full is no contestant.
    assert document["winners"][0]["method"] == "short"
    assert document["winners"][0]["minus_random"]["verdict"] == "better than random"


def test_again_nothing_is_computed_and_a_new_method_only_its_cells(
    work: Path, undisturbed: tuple[Path, Any]
) -> None:
    store, before = undisturbed
    again = compared(store, recipe(work))
    assert (again["computed"], again["reused"]) == (0, 10)
    assert timeless(again) == timeless(before)
    lists = [c["selection"] for c in before["cells"] if c["method"] == "length"]
    assert len(set(lists)) == 2  # one a seed
    few = {"method": "top", "options": {"column": "tokens.total", "largest": False}}
    methods = {"short": {"method": "top", "options": SHORT}, "few": few}
    more = compared(store, recipe(work, methods=methods))
    assert (more["computed"], more["reused"]) == (2, 10)
    longer = compared(store, recipe(work, methods=methods, seeds=[0, 1, 2]))
    assert (longer["computed"], longer["reused"]) == (6, 12)
    wider = recipe(work, methods=methods, seeds=[0, 1, 2], budgets=[400, 800])
    assert compared(store, wider)["computed"] == 3 * 5


def evaluated(store: Path) -> int:
    """How many evaluations are sealed: a folder has its name when all is in it."""
    return len([p for p in store.glob("evaluations/*") if p.suffix != ".partial"])


def test_killed_and_started_again(
    work: Path, undisturbed: tuple[Path, Any], tmp_path: Path
) -> None:
    """By the command, as people do it: killed with one process at work, gone on with two."""
    path, store = written(tmp_path, recipe(work, seconds=0.5)), tmp_path / "store"
    process = start(path, store, "--json")
    deadline = time.monotonic() + 200
    while evaluated(store) < 3:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)
    assert evaluated(store) < 10
    process = start(path, store, "--jobs", "2", "--json")
    out, told = process.communicate(timeout=300)
    assert process.returncode == 0, told
    document = json.loads(out)
    assert document["computed"] + document["reused"] == 10
    assert document["reused"] >= 3 and "cell 10 of 10" in told
    assert Path(document["report"]).is_file()
    # The commands differ by how long they wait, and so do the keys of what they made.
    plain, found = timeless(undisturbed[1]), timeless(document)
    for one in (plain, found):
        one["cells"] = [{k: c[k] for k in ("method", "seed", "selection")} for c in one["cells"]]
    assert found == plain


def test_a_list_of_ids_from_elsewhere(
    work: Path, undisturbed: tuple[Path, Any], tmp_path: Path
) -> None:
    """By another column; what is held out is left out of the list, and an unknown id is told."""
    every = [f"rows.jsonl:{i}" for i in range(1, 91)]
    (tmp_path / "theirs.txt").write_text("\n".join([*every, ""]))
    theirs = {"ids": str(tmp_path / "theirs.txt"), "by": "origin"}
    document = compared(undisturbed[0], recipe(work, methods={"theirs": theirs}))
    lines = {line["method"]: line for line in document["lines"]}
    assert 380 < lines["theirs"]["tokens"] <= 400
    some = {"ids": every[:12], "by": "origin"}
    document = compared(undisturbed[0], recipe(work, methods={"theirs": some}))
    assert any("unequal tokens selected" in w["text"] for w in document["warnings"])
    unknown = {"ids": [*every, "rows.jsonl:1000"], "by": "origin"}
    with pytest.raises(DataError, match=r"1 of 91 are no origin .* 'rows.jsonl:1000'"):
        compared(undisturbed[0], recipe(work, methods={"theirs": unknown}))


def test_the_command_prints_tables_or_markdown(
    work: Path, undisturbed: tuple[Path, Any], tmp_path: Path
) -> None:
    path, store = written(tmp_path, recipe(work)), undisturbed[0]
    asked = ["compare", str(path), "--store", str(store)]
    for args in ([], ["--markdown"]):
        done = CliRunner().invoke(app, [*asked, *args])
        assert done.exit_code == 0, done.output
        words = " ".join(done.stdout.split())
        for told in ("short", "full (reference)", "at 400 tokens short is best", "Overlap"):
            assert told.lower() in words.lower()
        assert "figures of single rows" in words  # a warning
    table = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table[:7]}) == 1 and table[1].startswith("|---|")
    told = str(CliRunner().invoke(app, [*asked, "--json", "--markdown"]).exception)
    assert "give one of them" in told


BAD = [
    ({"metric": None}, "name the one that decides"),
    ({"methods": {"random": {"method": "top"}}}, "random is compared always"),
    ({"methods": {"x": {"method": "topp"}}}, "compare.methods.x: there is no selection method"),
    ({"methods": {"x": {"method": "top", "options": {"column": "nll.mean"}}}}, "'nll'"),
    ({"methods": {"x": {"ids": "nowhere.txt"}}}, "cannot read nowhere.txt"),
    ({"methods": {"x": {"ids": ["a", "b", "a"]}}}, "'a' is listed 2 times"),
    ({"methods": {"x": {"ids": []}}}, "lists no id"),
    ({"methods": {"x": {"method": "top", "ids": ["a"]}}}, "exactly one of method and ids"),
    ({"budgets": [{"percent": 10}]}, "per cents"),
    ({"budgets": [100, {"rows": 5}]}, "one unit"),
    ({"budgets": [0]}, "budget of 0"),
    ({"seeds": [1, 1]}, "given twice"),
]


@pytest.mark.parametrize(("changed", "told"), BAD)
def test_what_is_wrong_is_told_before_work_begins(
    work: Path, tmp_path: Path, changed: dict[str, Any], told: str
) -> None:
    content = {**recipe(work, **changed), "store": str(tmp_path / "store")}
    with pytest.raises(RecipeError, match=told):
        check.checked(context_of(content))
    assert not (tmp_path / "store").exists()


def test_blocks_that_are_missing_are_named(work: Path) -> None:
    for block in ("tune", "evaluate", "compare"):
        content = {k: v for k, v in recipe(work).items() if k != block}
        with pytest.raises(RecipeError, match=block):
            check.checked(context_of(content))


def test_the_cells_of_a_recipe(work: Path) -> None:
    made = build(recipe(work, budgets=[300, 600], seeds=[7, 8]), where="test")
    found = cells(made)
    assert len(found) == 2 * (2 * 4 + 1) == len(set(found))
    assert [c.seed for c in found] == [7] * 9 + [8] * 9
    assert str(found[0]) == "random, 300 tokens, seed 7"
    own = recipe_of(made, Cell("stratified", Budget(tokens=300), 8))
    assert own.seed == 8 and own.select is not None and own.compare is None
    assert own.select.options == {"by": ["source"], "length": "tokens.total"}
    told = recipe(work)
    told["scores"]["tongue"] = {"scorer": "lang"}
    told["filters"] = [{"column": "length.answer_chars", "min": 3}]
    made = build(told, where="test")
    own = recipe_of(made, Cell("stratified", Budget(tokens=300), 0))
    assert own.select is not None and own.select.options["by"] == ["source", "tongue.code"]
    assert own.filters == []
    assert recipe_of(made, Cell("short", Budget(tokens=300), 0)).filters == made.filters


def test_the_decisive_metric(work: Path) -> None:
    def of(evaluate: dict[str, Any], **block: Any) -> tuple[str, str]:
        content = {**recipe(work), "evaluate": evaluate}
        content["compare"] = {**content["compare"], "metric": None, "better": None, **block}
        return check.decisive(build(content, where="test"))

    assert of({}) == ("exact_match", "higher")
    assert of({"max_new_tokens": 0}) == ("nll", "lower")
    assert of({}, metric="token_accuracy") == ("token_accuracy", "higher")
    for wrong in ({"metric": "accuracy"}, {"better": "lower"}):
        with pytest.raises(RecipeError):
            of({}, **wrong)
    with pytest.raises(RecipeError, match="max_new_tokens"):
        of({"max_new_tokens": 0}, metric="exact_match")


def made_up(values: np.ndarray, groups: int = 2) -> figures.Measured:
    """A measured line of (seeds, rows) values of weight 1."""
    rows = values.shape[1]
    ids = [f"row{i}" for i in range(rows)]
    terms = {"nll": (values, np.ones_like(values))}
    return figures.Measured(terms, ids, [f"g{i % groups}" for i in range(rows)])


def test_intervals_are_those_of_every_possible_draw() -> None:
    """Two seeds and three rows: 2^2 x 3^3 equally likely draws, all of them taken."""
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=(2, 3)), rng.normal(size=(2, 3)) + 1
    d = a - b
    every = [
        d[np.ix_([s, t], [i, j, k])].mean()
        for s in range(2)
        for t in range(2)
        for i in range(3)
        for j in range(3)
        for k in range(3)
    ]
    found = figures.difference(made_up(a), made_up(b), "nll", level=0.8, seed=0, resamples=40_000)
    assert found[0] == pytest.approx(d.mean())
    low, high = np.quantile(every, [0.1, 0.9])
    # Widened for few seeds, never narrower than the draws.
    assert found[1] <= low + 0.02 and found[2] >= high - 0.02
    many = rng.normal(size=(40, 60))
    wide = figures.difference(
        made_up(many + 0.1), made_up(many), "nll", level=0.95, seed=0, resamples=2000
    )
    assert wide == pytest.approx((0.1, 0.1, 0.1), abs=1e-9)


def test_verdicts_follow_the_better_side() -> None:
    assert figures.verdict((0.2, 0.1, 0.3), "higher", "random") == "better than random"
    assert figures.verdict((0.2, 0.1, 0.3), "lower", "random") == "worse than random"
    assert figures.verdict((-0.2, -0.3, -0.1), "lower", "random") == "better than random"
    assert figures.verdict((0.2, 0.0, 0.3), "higher", "random") == figures.NO_DIFFERENCE


def test_halves_part_every_group_and_know_no_seed() -> None:
    ids, groups = [f"id{i}" for i in range(101)], [f"g{i % 3}" for i in range(101)]
    marked = figures.halves(ids, groups)
    for group in set(groups):
        mine = np.array([g == group for g in groups])
        assert abs(2 * int(marked[mine].sum()) - int(mine.sum())) <= 1
    back = figures.halves(ids[::-1], groups[::-1])[::-1]
    assert (back == marked).all()
    assert int(np.flatnonzero(marked)[:50].sum() > 0) + 30 > 20


def test_the_winner_is_reported_on_rows_that_did_not_name_it(work: Path, tmp_path: Path) -> None:
    """A method that is good on the naming half alone wins there and shows nothing on the other."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(3, 200))
    base = made_up(noise)
    half = figures.halves(base.ids, base.groups)
    lucky = made_up(noise - 0.5 * half + 0.01 * rng.normal(size=(3, 200)))
    honest = made_up(noise - 0.1 + 0.01 * rng.normal(size=(3, 200)))
    ctx = context_of({**recipe(work), "store": str(tmp_path)})
    judge = table._Judge(ctx, "nll", "lower")

    def line(name: str, found: figures.Measured) -> table.Line:
        return table.Line(name, Budget(tokens=400), [], found)

    lines = [line("random", base), line("honest", honest), line("lucky", lucky)]
    won = table._winner(lines, judge, None)
    assert won["method"] == "lucky" and won["named_on"] + won["reported_on"] == 200
    assert won["minus_random"]["verdict"] == figures.NO_DIFFERENCE
    assert abs(won["minus_random"]["value"]) < 0.01
    assert won["second"] == "honest" and won["minus_second"]["verdict"] == "worse than honest"
    won = table._winner(lines[:2], judge, None)
    assert won["method"] == "honest" and won["second"] == "random"
    assert won["minus_random"]["verdict"] == "better than random"
    worse = line("worse", made_up(noise + 0.3))
    won = table._winner([lines[0], worse], judge, None)
    assert won["method"] == "random" and won["minus_random"] is None


def test_one_seed_of_a_command_shows_nothing() -> None:
    one = np.ones((1, 1))
    a, b = (figures.Measured({"score": (one * x, one)}) for x in (5.0, 1.0))
    found = figures.difference(a, b, "score", level=0.95, seed=0, resamples=100)
    assert figures.verdict(found, "higher", "random") == figures.NO_DIFFERENCE
    assert table._interval(found) == {"value": 4.0, "low": None, "high": None}


def test_a_metric_that_nobody_wrote_is_told(work: Path, tmp_path: Path) -> None:
    ctx = context_of({**recipe(work, metric="acuracy"), "store": str(tmp_path)})
    ones = np.ones((1, 1))
    found = figures.Measured({"accuracy": (ones, ones), "loss": (ones, ones)})
    lines = [table.Line("random", Budget(tokens=400), [], found)]
    with pytest.raises(TamisError, match=r"'acuracy' is none of .* of random.* accuracy, loss"):
        table.document(ctx, lines, None)


def test_overlap_is_jaccard() -> None:
    kept = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]], dtype=bool)
    expected = [[1, 1 / 3, 0], [1 / 3, 1, 0], [0, 0, 1]]
    np.testing.assert_allclose(overlap.jaccard(kept), expected)
    sets = [np.array([[1, 1, 0], [1, 0, 1]], dtype=bool), np.array([[1, 1, 0]] * 2, dtype=bool)]
    found = overlap._matrix(sets)
    np.testing.assert_allclose(found, [[1 / 3, (1 + 1 / 3) / 2], [(1 + 1 / 3) / 2, 1]])
    assert overlap._matrix([s[:1] for s in sets])[0][0] is None


def test_what_models_read_in_processes_is_counted(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tamis.language import tally
    from tamis.pipelines.comparing import work as working

    ctx = context_of({**recipe(work), "store": str(tmp_path)})
    cell = Cell("random", None, 0)

    def read(*_: object) -> working.Done:
        tally.note(3, 40, 2)
        return working.Done(cell, {}, 0, 1.0)

    monkeypatch.setattr(working, "run_cell", read)
    monkeypatch.setattr(working, "_state", (ctx, {}), raising=False)
    monkeypatch.setattr(working.workers, "processes", lambda *_: None)
    done = working._run(cell)
    assert done.read == tally.Tally(3, 40, 2)
    monkeypatch.setattr(working.workers, "each", lambda *_, **__: [(cell, done), (cell, done)])
    with tally.counted() as counted:
        list(working._processes(ctx, {}, [cell, cell], 2))
    assert counted == tally.Tally(6, 80, 4)
