"""Served models in recipes: caps that stop a run, replies that the next run goes on from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tamis import recipe
from tamis.errors import RecipeError
from tamis.language.endpoint import SpendCap
from tamis.pipelines.run import context, run
from tamis.storage.artifact import Store
from tamis.storage.catalogue import OpenStore

MODEL = {"model": "m", "concurrency": 2}


def made(tmp_path: Path, url: str, scores: dict[str, Any], **given: Any) -> recipe.Recipe:
    rows = [{"instruction": f"question {i}", "output": f"answer {i}"} for i in range(12)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    endpoint = {**MODEL, "url": url, **given}
    content = {
        "store": str(tmp_path / "unused"),
        "sources": {"pool": {"path": str(path)}},
        "models": {"served": {"endpoint": endpoint, "prompt_style": "chat"}},
        "scores": scores,
    }
    return recipe.build(content, where="test")


def go(tmp_path: Path, asked: recipe.Recipe, no_progress: Any) -> None:
    run(context(asked, say=lambda _: None, progress=no_progress, store=str(tmp_path / "store")))


def test_a_capped_run_is_gone_on_from(
    tmp_path: Path, serve: Callable[..., str], no_progress: Any
) -> None:
    url = serve(reply=["4"], by_content={"question 7": "2"})
    scores = {"judge": {"model": "served"}}
    with pytest.raises(SpendCap, match="8 requests"):
        go(tmp_path, made(tmp_path, url, scores, most_requests=8), no_progress)
    assert len(httpx.get(url).json()["requests"]) == 8
    assert len(list((tmp_path / "store" / "replies").rglob("*.json"))) == 8
    assert not (tmp_path / "unused").exists()
    go(tmp_path, made(tmp_path, url, scores), no_progress)
    assert len(httpx.get(url).json()["requests"]) == 12
    found = OpenStore(Store(tmp_path / "store")).sql(
        "select judge.value as v from signals order by 1"
    )
    assert found.column("v").to_pylist() == [2.0] + [4.0] * 11
    # Caps, keys and waits are no part of what a value is.
    go(tmp_path, made(tmp_path, url, scores, most_requests=0, retries=1), no_progress)
    assert len(httpx.get(url).json()["requests"]) == 12


def test_tags_are_a_list(tmp_path: Path, serve: Callable[..., str], no_progress: Any) -> None:
    url = serve(reply=['["Cooking", "soups"]'], by_content={"question 7": "none"})
    scores = {"llm_tags": {"model": "served"}}
    go(tmp_path, made(tmp_path, url, scores), no_progress)
    sql = "select llm_tags.tags as l, llm_tags.reason as r from signals order by r nulls last"
    found = OpenStore(Store(tmp_path / "store")).sql(sql).to_pylist()
    assert found[0] == {"l": [], "r": "no_valid_tags"}
    assert all(row["l"] == ["Cooking", "soups"] and row["r"] is None for row in found[1:])


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ({"scores": {"nll": {"model": "served"}}}, "is an endpoint; this needs its weights"),
        ({"tune": {"model": "served"}, "select": {}}, "tune: served is an endpoint"),
    ],
)
def test_weights_are_asked_for_by_name(
    tmp_path: Path, no_progress: Any, blocks: dict[str, Any], message: str
) -> None:
    asked = made(tmp_path, "http://localhost:1/v1", {})
    content = asked.model_dump(exclude_defaults=True) | blocks
    if "select" in blocks:
        content["select"] = {"method": "random", "budget": {"rows": 3}}
    with pytest.raises(RecipeError, match=message):
        go(tmp_path, recipe.build(content, where="test"), no_progress)
