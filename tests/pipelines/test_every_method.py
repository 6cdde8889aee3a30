"""Every selection method runs from a recipe, on ingested rows and stored signals."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tamis import selectors
from tamis.pipelines import run as running
from tamis.pipelines.run import Summary
from tamis.recipe import build
from tamis.storage.catalogue import OpenStore

TOPICS = ["pasta with garlic", "rails and engines", "linear algebra", "rain and weather"]
BUDGET = 12
# What each method reads: signals, and columns that the rows came with.
OPTIONS: dict[str, dict[str, Any]] = {
    "random": {},
    "stratified": {"by": ["source", "language"], "length": "length.answer_chars"},
    "top": {"column": "length.answer_chars"},
    "ids": {},
    "deita": {"scores": ["extra.scores", "extra.complexity"], "tau": 0.95},
    "kmeans": {"clusters": 4, "quality": "length.answer_chars"},
    "quota": {"by": ["source", "language"], "method": "k_center"},
    "k_center": {},
    "facility_location": {},
    "cdas": {"ifd": "ifd.ppl_ratio", "clusters": 3},
    "semdedup": {"clusters": 3},
    "instag_diversity": {"labels": "extra.tags"},
    "mig": {"labels": "clusters.labels", "score": "length.answer_words", "threshold": "degree:1"},
    "dealrec": {"influence": "nll.mean", "effort": "effort", "groups": 5},
    "goracs": {"gradient": "effort", "exchanges": 5},
    "gotd": {},
    "adapt_inf": {"vectors": "extra.gradient", "scores": ["nll.mean", "effort"], "clusters": 3},
    "less": {"features": ["extra.gradient"], "group": "language"},
}
TARGET = {"gotd", "goracs", "less"}


def rows(count: int, offset: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(offset)
    return [
        {
            "instruction": f"Tell me of {TOPICS[i % 4]}, {offset + i}",
            "output": f"It is about {TOPICS[i % 4]}." + " So it is." * (i % 3),
            "language": "en" if i % 3 else "fr",
            "effort": float(rng.gamma(2.0)),
            "scores": [1.0 + i % 5, 2.0],
            "complexity": [1.0, 1.0 + i % 4],
            "tags": [TOPICS[i % 4], f"part {i % 7}"],
            "gradient": rng.normal(size=6).round(4).tolist(),
        }
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, tiny_lm: Callable[..., Path]) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("every")
    for name, made in {"pool": rows(60, 0), "target": rows(8, 100)}.items():
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, made)))
    return {
        "pool": str(folder / "pool.jsonl"),
        "target": str(folder / "target.jsonl"),
        "store": str(folder / "store"),
        "lm": str(tiny_lm()),
    }


def run(files: dict[str, str], method: str, options: dict[str, Any], **blocks: Any) -> Summary:
    content: dict[str, Any] = {
        "store": files["store"],
        "sources": {"pool": {"path": files["pool"]}},
        "models": {"lm": {"path": files["lm"], "prompt_style": "chat"}},
        "scores": {
            "embed": {},
            "length": {},
            "nll": {"model": "lm"},
            "ifd": {"model": "lm"},
            "clusters": {"options": {"clusters": 6}},
        },
        "select": {"method": method, "options": options, "budget": {"rows": BUDGET}},
        **blocks,
    }
    if method in TARGET:
        content["target"] = {"path": files["target"]}
    recipe = build(content, where=method)
    ctx = running.context(
        recipe, say=lambda _: None, progress=lambda *_: nullcontext(lambda n: None)
    )
    return running.run(ctx, until="select")


def kept(summary: Summary) -> list[str]:
    table = OpenStore(_store(summary)).sql(
        "select id from selections where selection = $key and kept order by rank",
        {"key": summary.keys["chosen/selection"]},
    )
    ids: list[str] = table.column("id").to_pylist()
    return ids


def _store(summary: Summary) -> Any:
    from tamis.storage.artifact import Store

    return Store(summary.store)


def test_all_methods_are_here() -> None:
    # A method that trains between its rounds is tested with the trainer.
    one_pass = {n for n in selectors.names() if not hasattr(selectors.get(n), "trains")}
    assert set(OPTIONS) == one_pass


@pytest.mark.parametrize("method", sorted(OPTIONS))
def test_it_runs_from_a_recipe(files: dict[str, str], method: str) -> None:
    options = dict(OPTIONS[method])
    if method == "ids":
        options["ids"] = kept(run(files, "random", {}))
    summary = run(files, method, options)
    ids = kept(summary)
    facts = summary.facts("select")["chosen"]
    assert 0 < len(ids) == facts["kept"] <= BUDGET
    assert len(set(ids)) == len(ids)
    reasons = OpenStore(_store(summary)).sql(
        "select kept, reason, count(*) n from selections where selection = $key group by all",
        {"key": summary.keys["chosen/selection"]},
    )
    told = reasons.to_pylist()
    assert sum(row["n"] for row in told) == 60
    assert all((row["reason"] == "selected") == row["kept"] for row in told)
    # Another budget has rows of its own, never more than asked for.
    fewer = {"select": {"method": method, "options": options, "budget": {"rows": 3}}}
    assert len(kept(run(files, method, options, **fewer))) <= 3
