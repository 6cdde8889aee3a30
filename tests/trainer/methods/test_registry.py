"""Names, options and optimizers: what is refused, and in which words."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tamis import recipe as recipes
from tamis.errors import MissingPackage, RecipeError
from tamis.pipelines import plan
from tamis.recipe import Tune
from tamis.storage.artifact import Store
from tamis.trainer import methods, objectives, optimizers
from tamis.trainer.job import check


def refused(words: str, **block: Any) -> None:
    with pytest.raises(RecipeError, match=words) as caught:
        check(Tune.model_validate(block), "cpu")
    assert "\n" not in str(caught.value)


def test_unknown_names_and_options_name_the_nearest() -> None:
    refused("no tuning method 'lorra'; did you mean lora?", method="lorra")
    refused("lora has no option 'rang'; did you mean rank?", options={"rang": 4})
    refused("full has no option 'rank'; it has no options", method="full", options={"rank": 4})
    refused("lora: rank='4': Input should be a valid integer", options={"rank": "4"})
    refused("lora: init='pizza'", options={"init": "pizza"})
    refused("no optimizer 'adam'; did you mean adamw?", optimizer="adam")
    refused("sgd has no option 'momentun'", optimizer="sgd", optimizer_options={"momentun": 0.9})
    refused("sgd.momentum must be like 0.0", optimizer="sgd", optimizer_options={"momentum": "a"})
    refused("no objective 'sftt'; did you mean sft?", objective={"method": "sftt"})
    refused("trainable_tokens needs the option ids", method="trainable_tokens")


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ("rank and init_rows must be at least 1", {"rank": 0}),
        ("plus_ratio=0.0", {"plus_ratio": 0.0}),
        ("which dora cannot", {"init": "pissa", "dora": True}),
    ],
)
def test_options_of_lora_that_do_not_fit(words: str, options: dict[str, Any]) -> None:
    refused(words, options=options)


def test_what_does_not_go_together() -> None:
    refused("target_rank=8", method="adalora", options={"rank": 8, "target_rank": 8})
    for name in methods.names():
        if not methods.get(name).packable:
            refused("packed rows would share: set packing: none", method=name)
            check(Tune(method=name, packing="none"), "cpu")
    refused("may be several batches; use galore_adamw", optimizer="galore_adamw_layerwise")
    refused("galore_adamw saves memory on whole weights", optimizer="galore_adamw")
    refused("knows no weight decay", method="full", optimizer="galore_adamw", weight_decay=0.1)
    refused("set scheduler: constant", optimizer="schedule_free_adamw")


def test_diagnostics_need_whole_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    check(Tune(diagnose={}), "cpu")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    check(Tune(), "cpu")
    refused("FSDP cuts them: use ddp, or leave it out", diagnose={})


def test_an_absent_package_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec

    def gone(name: str) -> Any:
        return None if name == "schedulefree" else real(name)

    monkeypatch.setattr(optimizers, "find_spec", gone)
    with pytest.raises(MissingPackage, match="pip install schedulefree"):
        check(Tune(optimizer="schedule_free_adamw", scheduler="constant"), "cpu")


def test_every_method_tells_of_itself() -> None:
    for name in methods.names():
        told = methods.describe(name)
        assert methods.get(name).name == name
        assert all(told[field] for field in ("sentence", "needs", "cost", "avoid", "source"))
        assert told["leaves"] in {"adapter", "full"} and told["learning_rate"] > 0


def test_every_method_and_optimizer_is_in_the_docs() -> None:
    page = (Path(__file__).parents[3] / "docs" / "trainer.md").read_text(encoding="utf-8")
    headings = {n for line in page.splitlines() if line.startswith("### ") for n in _words(line)}
    for name in [*methods.names(), *optimizers.OPTIMIZERS]:
        assert f"`{name}`" in page or name in headings, name


def _words(line: str) -> list[str]:
    return line.removeprefix("### ").replace(",", "").split()


def test_a_recipe_is_refused_before_any_work(tiny: Any, tmp_path: Path) -> None:
    content = {
        "sources": {"a": {"path": "rows.jsonl"}},
        "models": {"lm": {"path": tiny.path, "prompt_style": "chat"}},
        "select": {"method": "random", "budget": {"rows": 3}},
        "evaluate": {"path": "rows.jsonl"},
    }

    def planned(**tune: Any) -> None:
        recipe = recipes.build({**content, "tune": {"model": "lm", **tune}}, where="test")
        plan.check(recipe, Store(tmp_path), "cpu")

    planned(method="lora")
    with pytest.raises(RecipeError, match="did you mean rank"):
        planned(options={"rnk": 4})
    with pytest.raises(RecipeError, match="the model that is evaluated cannot have them"):
        planned(method="prompt", packing="none")


def test_the_command_lists_what_the_trainer_has() -> None:
    program = [sys.executable, "-m", "tamis", "methods", "--trainer", "--json"]
    done = subprocess.run(program, capture_output=True, text=True, check=True, timeout=500)
    told = {(m["kind"], m["name"]): m for m in json.loads(done.stdout)}
    assert {n for kind, n in told if kind == "method"} == set(methods.names())
    assert {n for kind, n in told if kind == "optimizer"} == set(optimizers.OPTIMIZERS)
    assert ("objective", "dft") in told and ("online", "uds") in told
    assert told["method", "full"]["trainable"] == 100
    # Rank 16 beside all seven layers of 4 blocks of width 128: two matrices of 128, two of 64 and
    # three of 352 outputs or inputs.
    adapter = 16 * 4 * (2 * 256 + 2 * (128 + 64) + 3 * (128 + 352))
    block = 2 * 128**2 + 2 * 128 * 64 + 3 * 128 * 352 + 2 * 128
    whole = 4 * block + 2 * 2048 * 128 + 128
    assert told["method", "lora"]["trainable"] == pytest.approx(100 * adapter / whole)
    assert all(m["trainable"] > 0 for m in told.values() if m["kind"] == "method")


def test_every_objective_is_in_the_docs_with_its_options() -> None:
    page = (Path(__file__).parents[3] / "docs" / "trainer.md").read_text(encoding="utf-8")
    for name in objectives.names():
        (line,) = [row for row in page.splitlines() if row.startswith(f"| `{name}` | ")]
        for option in dataclasses.fields(objectives.get(name)):
            assert f"`{option.name}`" in line, (name, option.name)
