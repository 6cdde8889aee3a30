"""A teacher from a recipe: through the command, in the key, refused before any work."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import yaml

from tamis.errors import RecipeError
from tamis.pipelines import plan, tune
from tamis.pipelines import run as running
from tamis.recipe import build
from tamis.storage.artifact import Store


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory, tiny_lm: Callable[..., Path]) -> Any:
    """A recipe that distils one tiny model into another, and one of other tokens."""
    folder = tmp_path_factory.mktemp("teacher")
    rows = [{"instruction": f"say {i}", "output": f"red {i}"} for i in range(12)]
    (folder / "pool.jsonl").write_text("\n".join(map(json.dumps, rows)))
    stranger = shutil.copytree(tiny_lm(), folder / "stranger")
    text = (stranger / "tokenizer.json").read_text(encoding="utf-8")
    swapped = json.loads(text)
    known = swapped["model"]["vocab"]
    known["a"], known["b"] = known["b"], known["a"]
    (stranger / "tokenizer.json").write_text(json.dumps(swapped), encoding="utf-8")
    paths = {"lm": tiny_lm(), "large": tiny_lm(seed=1), "stranger": stranger}
    return {
        "store": str(folder / "store"),
        "sources": {"pool": {"path": str(folder / "pool.jsonl")}},
        "models": {n: {"path": str(p), "prompt_style": "chat"} for n, p in paths.items()},
        "select": {"method": "random", "budget": {"rows": 12}},
        "tune": {
            "model": "lm",
            "options": {"rank": 2},
            "rows_per_step": 4,
            "objective": {"method": "taid", "options": {"teacher": "large"}},
        },
    }


def test_the_command_distils(content: Any, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content))

    def tamis(*args: str) -> subprocess.CompletedProcess[str]:
        program = [sys.executable, "-m", "tamis", "run", "recipe.yaml", *args]
        return subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, timeout=240)

    stranger = tamis("--set", "tune.objective.options.teacher=stranger")
    assert stranger.returncode == 1 and "Traceback" not in stranger.stderr
    (line,) = [x for x in stranger.stderr.splitlines() if "has another vocabulary than" in x]
    assert "(260 tokens with the same number, of 262 and 262)" in line
    store = Store(Path(content["store"]))
    assert not list((store.root / "samples").glob("*"))  # nothing was ingested
    done = tamis("--json")
    assert done.returncode == 0, done.stderr
    (path,) = (store.root / "models").glob("*/train_report.json")
    history = json.loads(path.read_text())["history"]
    assert [entry["t"] for entry in history] == pytest.approx([0.4, 0.4, 0.6])
    assert all(entry["loss"] == pytest.approx(entry["kl"], rel=1e-5) for entry in history)


def test_the_key_holds_the_teacher_and_no_name(content: Any) -> None:
    def key(**models: str) -> str:
        given = json.loads(json.dumps(content))
        given["models"] |= {name: given["models"][of] for name, of in models.items()}
        if models:
            given["tune"]["objective"]["options"]["teacher"] = next(iter(models))
        context = running.context(
            build(given, where="test"),
            say=lambda _: None,
            progress=lambda *_: nullcontext(lambda n: None),
        )
        return json.dumps(tune.settings(context), sort_keys=True)

    assert key() == key(again="large") != key(self="lm")
    assert content["models"]["large"]["path"] not in key()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "taid needs a model: the name of an entry of models"),
        ({"teacher": "larg"}, "models has no entry 'larg'"),
        ({"teacher": "large", "start": 2.0}, "expected 0 <= start <= end <= 1"),
        ({"teacher": "large", "alfa": 1.0}, "did you mean alpha"),
    ],
)
def test_mistakes_are_told_before_any_work(
    content: Any, tmp_path: Path, options: dict[str, Any], told: str
) -> None:
    block = {**content["tune"], "objective": {"method": "taid", "options": options}}
    recipe = build({**content, "tune": block}, where="test")
    with pytest.raises(RecipeError, match=told):
        plan.check(recipe, Store(tmp_path), "cpu")
