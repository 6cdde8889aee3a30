"""Refiners whose model is behind a server: a real process that speaks the protocol."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import httpx
import pytest

from tamis.errors import RecipeError
from tamis.pipelines import run as running
from tamis.recipe import Model, build
from tamis.refiners import clear
from tamis.refiners.clear import ClearCorrect
from tamis.refiners.s3ft import S3ft
from tamis.storage.artifact import Store
from tamis.storage.catalogue import OpenStore

SAID = {
    "sum a": "It is 4.",
    "sum b": "It is 5.",
    "sum b\\n\\nHere is a reference answer": "In other words 4.",
    "sum c": "It is 4 and so on",
}


def served(url: str) -> Model:
    return Model.model_validate({"endpoint": {"url": url, "model": "m"}, "prompt_style": "chat"})


def test_s3ft_is_written_by_a_server(serve: Callable[..., str], row: Any) -> None:
    url = serve(by_content=SAID, reply=["Seven."], cut="so on")
    refiner = S3ft(served(url), served(url), "cpu", checkers=("numeric",), max_new_tokens=16)
    refiner.check()
    tools = row("sum a", "4")
    with_tools = type(tools)("t", tools.messages, [{"name": "add"}])
    done: list[int] = []
    rows = [row("sum a", "4"), row("sum b", "4"), row("sum c", "4"), with_tools]
    a, b, c, t = refiner.refine(rows, advance=done.append)
    assert sum(done) == 4
    assert [f.action for f in (a, b, c, t)] == ["model", "paraphrase", "gold", "gold"]
    assert (a.after, b.after) == ("It is 4.", "In other words 4.")
    # Cut off at the limit: not even judged.
    assert c.confidences["judge_model"] == "no" and t.confidences["judge_model"] == "skipped"
    assert "logprob_before" not in a.confidences
    bodies = [r["body"] for r in httpx.get(url).json()["requests"]]
    assert all(b["max_tokens"] == 16 and b["temperature"] == 0 for b in bodies)
    with pytest.raises(RecipeError, match="needs its weights here"):
        S3ft(served(url), served(url), "cpu", max_new_tokens=16).check()


def test_a_served_candidate_is_judged_here(
    serve: Callable[..., str], lm: Model, row: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = serve(by_content=SAID, reply=["New."], cut="so on")
    refiner = ClearCorrect(served(url), lm, "cpu", eta=0.0, max_new_tokens=16)
    refiner.check()
    asked: list[Any] = []
    real = clear.ask
    monkeypatch.setattr("tamis.numerics.options.LEAST_MASS", 0.0)
    monkeypatch.setattr(clear, "ask", lambda *given: asked.append(given) or real(*given))
    found = refiner.refine([row("sum a", "5"), row("sum c", "4")], advance=lambda n: None)
    assert found[0].candidate == "It is 4." and found[0].confidences["p_candidate"] > 0
    assert found[1].reason == "candidate_cut"
    assert {engine.model.location for engine, *_ in asked} == {lm.location}
    assert refiner.identity()["model"]["model"] == "m"


def test_a_recipe_refines_by_a_server(serve: Callable[..., str], tmp_path: Path) -> None:
    rows = [{"instruction": f"sum {c}", "output": "4"} for c in "abc"]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    url = serve(by_content=SAID, reply=["Seven."], cut="so on")
    content = {
        "store": str(tmp_path / "store"),
        "sources": {"pool": {"path": str(tmp_path / "rows.jsonl")}},
        "models": {"far": {"endpoint": {"url": url, "model": "m"}, "prompt_style": "chat"}},
        "refine": {"method": "s3ft", "model": "far", "options": {"checkers": ["numeric"]}},
    }
    for _ in range(2):
        ctx = running.context(
            build(content, where="test"),
            say=lambda _: None,
            progress=lambda *_: nullcontext(lambda n: None),
        )
        running.run(ctx, until="refine")
    sql = "select action, before, after, model_identity from refinements order by action"
    found = OpenStore(Store(tmp_path / "store")).sql(sql).to_pylist()
    assert [(r["action"], r["before"], r["after"]) for r in found] == [
        ("gold", "4", None),
        ("model", "4", "It is 4."),
        ("paraphrase", "4", "In other words 4."),
    ]
    assert json.loads(found[0]["model_identity"])["endpoint"] == url
    # Three answers, and three paraphrases of those that failed; the second run asks nothing.
    assert len(httpx.get(url).json()["requests"]) == 5
    assert len(list((tmp_path / "store" / "replies").rglob("*.json"))) == 5
