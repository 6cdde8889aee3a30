"""Online rules from a recipe: they run, they are part of the key, and mistakes are told early."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tamis.errors import RecipeError
from tamis.pipelines import plan, tune
from tamis.pipelines import run as running
from tamis.pipelines.context import Context
from tamis.pipelines.run import Summary
from tamis.recipe import build
from tamis.selectors import online as rules
from tamis.storage.artifact import Artifact, Store

OPTIONS: dict[str, dict[str, Any]] = {"uds": {"max_length": 128}}


def jsonl(path: Path, count: int, of: str) -> str:
    rows = [
        {"instruction": f"say {of} {i}", "output": f"{of} {i}" * (1 + i % 3)} for i in range(count)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, tiny_lm: Callable[..., Path]) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("online")
    return {
        "pool": jsonl(folder / "pool.jsonl", 24, "red"),
        "safe": jsonl(folder / "safe.jsonl", 5, "no"),
        "other": jsonl(folder / "other.jsonl", 5, "not"),
        "store": str(folder / "store"),
        "lm": str(tiny_lm()),
        "ref": str(tiny_lm(seed=1)),
    }


def content(files: dict[str, str], tune: dict[str, Any]) -> dict[str, Any]:
    return {
        "store": files["store"],
        "sources": {"pool": {"path": files["pool"]}},
        "models": {n: {"path": files[n], "prompt_style": "chat"} for n in ("lm", "ref")},
        "select": {"method": "random", "budget": {"rows": 24}},
        "tune": {"model": "lm", "options": {"rank": 2}, "rows_per_step": 8, "epochs": 2, **tune},
    }


def context(given: dict[str, Any]) -> Context:
    return running.context(
        build(given, where="test"),
        say=lambda _: None,
        progress=lambda *_: nullcontext(lambda n: None),
    )


def run(given: dict[str, Any]) -> Summary:
    return running.run(context(given), until="tune")


def model(summary: Summary) -> Artifact:
    return Store(summary.store).get("models", summary.keys["chosen/model"])


def chosen(files: dict[str, str], method: str, **given: Any) -> dict[str, Any]:
    block: dict[str, Any] = {"method": method, "keep": 0.5, "options": OPTIONS.get(method, {})}
    if method in ("bds", "greats"):
        block["safe"] = files["safe"]
    if method == "rho_loss":
        block["reference"] = "ref"
    return {"online": {**block, **given}}


@pytest.mark.parametrize("method", rules.names())
def test_every_rule_runs_from_a_recipe(files: dict[str, str], method: str) -> None:
    found = model(run(content(files, chosen(files, method))))
    told = found.facts["online"]
    assert found.facts["steps"] == 6 and told["method"] == method
    assert (told["candidate_rows"], told["kept_rows"]) == (48, 24)
    assert pq.read_metadata(found.path / "picks.parquet").num_rows == 48


def test_the_key_holds_what_is_picked_by_and_no_path(files: dict[str, str], tmp_path: Path) -> None:
    def key(method: str, models: dict[str, str] | None = None, **given: Any) -> str:
        made = content(files, chosen(files, method, **given))
        made["models"] |= {n: made["models"][of] for n, of in (models or {}).items()}
        return json.dumps(tune.settings(context(made)), sort_keys=True)

    copy = tmp_path / "copy.jsonl"
    copy.write_text(Path(files["safe"]).read_text())
    bds, rho = key("bds"), key("rho_loss")
    assert key("bds", safe=str(copy)) == bds
    assert key("rho_loss", {"late": "ref"}, reference="late") == rho
    others = [
        key("bds", safe=files["other"]),
        key("bds", keep=0.75),
        key("bds", options={"entropy": 0.1}),
        key("rho_loss", reference="lm"),
        key("max_loss"),
    ]
    assert len({bds, rho, *others}) == 7
    assert files["safe"] not in bds and files["ref"] not in rho


def mistakes(safe: str) -> list[tuple[dict[str, Any], str]]:
    return [
        ({"online": {"method": "ud"}}, "did you mean uds?"),
        ({"online": {"method": "uds", "options": {"alfa": 1}}}, "alpha"),
        ({"online": {"method": "bds"}}, "bds needs trusted rows"),
        ({"online": {"method": "uds", "safe": safe}}, "uds reads no trusted rows"),
        ({"online": {"method": "uds", "reference": "ref"}}, "uds takes no reference"),
        ({"online": {"method": "rho_loss"}}, "rho_loss needs a model"),
        ({"online": {"method": "rho_loss", "reference": "rex"}}, "no entry 'rex'"),
        ({"online": {"method": "random"}, "command": "train"}, "tune.online works in the bundled"),
        ({"diagnose": {}, "command": "train"}, "tune.diagnose works in the bundled trainer"),
        ({"evaluate_every": 5, "command": "train"}, "tune.evaluate_every works in the bundled"),
        (
            {"online": {"method": "bds", "safe": safe}, "objective": {"method": "dft"}},
            "bds has a loss of its own",
        ),
    ]


@pytest.mark.parametrize("at", range(len(mistakes(""))))
def test_mistakes_are_told_before_any_work(files: dict[str, str], at: int, tmp_path: Path) -> None:
    given, told = mistakes(files["safe"])[at]
    recipe = build({**content(files, given), "store": str(tmp_path)}, where="test")
    with pytest.raises(RecipeError, match=told):
        plan.check(recipe, Store(tmp_path), "cpu")
