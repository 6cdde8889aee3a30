"""What is new in the data a model was tuned on: the account, its parts, and the command."""

import json
import subprocess
import sys

import numpy as np
import pytest

from tamis.errors import RecipeError
from tamis.language.contrast import Rule
from tamis.numerics.blocked import unit_rows
from tamis.pipelines import novelty as contrasts
from tamis.pipelines.novelty import Novelty, nothing_new, novelty
from tamis.pipelines.themes import coverage, tags, themes
from tamis.recipe import Model, build
from tamis.storage.artifact import Store
from tamis.storage.files import read_json
from tests.pipelines.conftest import NoProgress, put, silent

QUICK = Novelty(texts=5, rule=Rule(least=2, most=6), together=2, learning_rate=1e-2)


@pytest.fixture(scope="module")
def models(tiny_lm):
    return tuple(Model(path=str(tiny_lm(seed=s)), prompt_style="plain") for s in (1, 2))


@pytest.fixture
def context(tmp_path):
    from tamis.pipelines.context import Context

    recipe = build({"sources": {"pool": {"stored": True}}, "seed": 4}, where="test")
    return Context(recipe, Store(tmp_path / "store"), "cpu", silent, NoProgress)


@pytest.fixture
def source(context):
    rows = [{"question": f"What is {i} plus {i}?", "answer": f"It is {2 * i}."} for i in range(30)]
    return {"pool": put(context.store, "pool", rows)}


def account(context, models, sources, options=QUICK):
    made, reused = novelty(context, *models, sources, options)
    return read_json(made.path / "novelty.json"), made, reused


def test_the_account_holds_together(context, models, source):
    told, made, reused = account(context, models, source)
    assert not reused and account(context, models, source)[2]
    assert [t["step"] for t in told["texts"]] == [0, 0, 1, 1, 2]
    assert all(t["score"] == pytest.approx(t["tuned"] - t["base"]) for t in told["texts"])
    assert sum(theme["size"] for theme in told["themes"]) == sum(
        t["theme"] >= 0 for t in told["texts"]
    )
    for number, theme in enumerate(told["themes"]):
        members = [t for t in told["texts"] if t["theme"] == number]
        assert theme["size"] == len(members)
        assert theme["score"] == pytest.approx(np.mean([t["score"] for t in members]))
        assert theme["first_step"] == min(t["step"] for t in members)
        assert set(theme["examples"]) <= {t["text"] for t in members}
        likeness = [row["similarity"] for row in theme["rows"]]
        assert len(likeness) == 5 and likeness == sorted(likeness, reverse=True)
    assert len(told["coverage"]) == 5 and told["coverage"] == sorted(told["coverage"])
    assert told["settings"]["rows"] == 30 and told["stopped"] == "asked"
    assert not list(made.path.glob("texts-*"))
    assert "# What is new in this data" in contrasts.markdown(told)


def test_without_samples_there_are_texts_and_themes(context, models):
    told, _, _ = account(context, models, {})
    assert len(told["texts"]) == 5 and told["coverage"] == []
    assert all(theme["supported"] is None for theme in told["themes"])


def test_a_static_run_differs_only_once_the_base_has_learnt(context, models):
    moving, _, _ = account(context, models, {})
    still, _, _ = account(context, models, {}, Novelty(5, "", QUICK.rule, 2, 0.0))
    first = [[t["text"] for t in told["texts"][:2]] for told in (moving, still)]
    later = [[t["score"] for t in told["texts"][2:]] for told in (moving, still)]
    assert first[0] == first[1] and later[0] != later[1]


def test_a_killed_run_goes_on_with_what_the_base_had_learnt(context, models, tmp_path):
    from dataclasses import replace

    whole, _, _ = account(replace(context, store=Store(tmp_path / "other")), models, {})
    draw = contrasts.Contrast.draw
    drawn = []

    def fails_at_the_third(self, *given):
        if len(drawn) == 2:
            raise KeyboardInterrupt
        drawn.append(given)
        return draw(self, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contrasts.Contrast, "draw", fails_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            account(context, models, {})
        patch.setattr(
            contrasts.Contrast, "draw", lambda self, *g: drawn.append(g) or draw(self, *g)
        )
        told, _, _ = account(context, models, {})
    assert len(drawn) == 3  # the first two batches were not drawn again
    assert told == whole


def test_it_stops_when_nothing_is_new():
    assert not nothing_new([1.0] * 5 + [0.05] * 9)
    assert nothing_new([1.0] * 5 + [0.05] * 10)
    assert not nothing_new([1.0] * 5 + [0.05] * 9 + [0.11])
    assert not nothing_new([1.0] * 14)


def test_texts_longer_than_the_models_are_refused(context, models):
    with pytest.raises(RecipeError, match="at most 127"):
        account(context, models, {}, Novelty(rule=Rule(least=1, most=500)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def f(x):\n    return x", ["code"]),
        ("We have $a+b$ and 3 + 4.", ["math"]),
        ("# Title\n<b>bold</b>", ["markup"]),
        ("- one\n- two", ["list"]),
        ("Plain words only.", []),
    ],
)
def test_tags(text, expected):
    assert tags(text) == expected


def test_themes_by_hand():
    axes = np.eye(4, dtype=np.float32)
    vectors = np.vstack([axes[0], axes[1], axes[0], np.full(4, np.nan), axes[0]])
    rows = [{"id": "a", "text": "near"}, {"id": "b", "text": "far"}, {"id": "c", "text": ""}]
    row_vectors = np.vstack([unit_rows(axes[:1] + 0.1 * axes[2:3])[0], axes[3], np.full(4, np.nan)])
    found, numbers = themes(
        ["x", "y", "z", "", "w"], [0, 0, 1, 1, 2], [3, 1, 5, 0, 4], vectors, rows, row_vectors
    )
    assert numbers == [0, 1, 0, -1, 0]
    assert [(t["size"], t["first_step"], t["score"]) for t in found] == [(3, 0, 4.0), (1, 0, 1.0)]
    assert [row["id"] for row in found[0]["rows"]] == ["a", "b"]
    assert [t["supported"] for t in found] == [True, False]


def test_coverage_grows_with_what_is_hit():
    rng = np.random.default_rng(0)
    middles = np.eye(6, dtype=np.float32)[:2]
    rows = unit_rows((np.repeat(middles, 20, 0) + 0.01 * rng.normal(size=(40, 6))).astype("f4"))
    vectors = np.vstack([middles[0], middles[0], np.full(6, np.nan), middles[1]])
    assert coverage(vectors, rows, 0) == [0.5, 0.5, 0.5, 1.0]
    assert coverage(vectors, np.zeros((0, 6), np.float32), 0) == []


def test_the_report_tells_the_news_of_its_own_samples(models, tmp_path):
    from tamis.pipelines import report
    from tamis.pipelines.run import context as surroundings
    from tamis.pipelines.run import run
    from tamis.storage.catalogue import open_store

    lines = [f'{{"instruction": "Say {i}", "output": "{i} it is"}}' for i in range(30)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    told = []
    for name in ("news", "other"):
        content = {
            "name": name,
            "store": str(tmp_path / "store"),
            "sources": {name: {"path": str(tmp_path / "rows.jsonl")}},
            "scores": {"length": {}},
            "select": {"method": "random", "budget": {"rows": 5}},
        }
        ctx = surroundings(build(content, where="test"), say=silent, progress=NoProgress)
        run(ctx)
        if name == "news":
            novelty(ctx, *models, contrasts.source_keys(ctx), QUICK)
        store = open_store(ctx.store.root)
        row = store.sql("select * from runs where recipe = $name", {"name": name}).to_pylist()[0]
        told.append(report.collect(store, row).news)
    assert told[1] is None
    assert told[0].texts == 5 and sum(theme.size for theme in told[0].themes) <= 5
    assert 0 < told[0].covered <= 1 and len(told[0].themes[0].rows) == 2


def test_the_command(models, tmp_path):
    given = ["--base", models[0].path, "--tuned", models[1].path, "--store", str(tmp_path / "s")]
    given += ["--texts", "3", "--min-tokens", "1", "--max-tokens", "4", "--learning-rate", "0"]
    command = [sys.executable, "-m", "tamis", "novelty", *given]
    page = tmp_path / "new.md"
    run = subprocess.run(
        [*command, "--prompt-style", "plain", "--json", "--markdown", str(page)],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    told = json.loads(run.stdout)
    assert len(told["texts"]) == 3 and told["settings"]["iterative"] is False
    assert page.read_text(encoding="utf-8").startswith("# What is new in this data")
    failed = subprocess.run(command, capture_output=True, text=True)
    assert failed.returncode == 1
    assert failed.stderr.strip() == "tamis: tamis novelty needs --prompt-style chat or plain"
