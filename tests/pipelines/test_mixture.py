"""Mixtures from a recipe: shares of tokens, rows shown twice, licences; told and trained on."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tamis.errors import DataError, RecipeError
from tamis.pipelines.context import Context
from tamis.pipelines.run import Summary, run
from tamis.pipelines.summary import document, lines
from tamis.recipe import Recipe
from tamis.storage import manifests

LICENCES = ["Apache-2.0", "MIT", "cc-by-nc-4.0", None]
ROWS = [
    {
        "instruction": f"q{i}",
        "output": "word " * (8 if i % 4 == 0 else 1 + i % 3),
        "kind": "code" if i % 4 == 0 else "chat",
        "language": ["de", "en"][i % 3 == 0],
        "licence": LICENCES[(i // 4) % 4],
    }
    for i in range(240)
]


@pytest.fixture(scope="module")
def model(tiny_lm: Callable[..., Path]) -> dict[str, Any]:
    return {"lm": {"path": str(tiny_lm()), "prompt_style": "plain"}}


@pytest.fixture
def pool(tmp_path: Path) -> dict[str, Any]:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)))
    return {"pool": {"path": str(path)}}


@pytest.fixture
def mixed(
    make_context: Callable[..., Context], pool: dict[str, Any], model: dict[str, Any]
) -> Callable[..., Summary]:
    """Run a recipe that mixes, up to the manifest."""

    def go(budget: dict[str, Any], until: str = "export", **options: Any) -> Summary:
        blocks = options.pop("blocks", {})
        select = {
            "method": "quota",
            "options": {"by": ["kind"], **options},
            "budget": budget,
        }
        scores = {"tokens": {"model": "lm"}}
        return run(
            make_context(sources=pool, models=model, scores=scores, select=select, **blocks),
            until=until,
        )

    return go


def manifest(summary: Summary, subset: str = "chosen") -> dict[str, Any]:
    """The rows of a manifest by the columns of `ROWS`, each as often as it stands there."""
    folder = summary.store / "manifests" / summary.keys[f"{subset}/manifest"]
    rows = manifests.read(folder).rows()
    by_text = {row["instruction"]: row for row in ROWS}
    shown = [by_text[m[0]["content"]] for m in rows["messages"].to_pylist()]
    return {"ids": rows["row_id"].to_pylist(), "rows": shown}


def tokens_of(summary: Summary) -> dict[str, int]:
    """Total tokens by question."""
    signals = summary.store / "signals" / summary.keys["signals/tokens"]
    samples = summary.store / "samples" / summary.keys["samples/pool"]
    one = pq.ParquetDataset(sorted(signals.glob("part-*.parquet"))).read()
    cost = dict(zip(one["content_key"].to_pylist(), one["total"].to_pylist(), strict=True))
    rows = pq.ParquetDataset(sorted(samples.glob("part-*.parquet"))).read()
    return {
        m[0]["content"]: cost[key]
        for m, key in zip(
            rows["messages"].to_pylist(), rows["content_key"].to_pylist(), strict=True
        )
    }


def test_a_mixture_of_tokens_with_rows_shown_twice(mixed: Callable[..., Summary]) -> None:
    budget = 2000
    weights = {"code": 40.0, "chat": 60.0}
    summary = mixed({"tokens": budget}, weights=weights, repeat={"code": 2})
    found, cost = manifest(summary), tokens_of(summary)
    trained = Counter[str]()
    for row in found["rows"]:
        trained[row["kind"]] += cost[row["instruction"]]
    dearest = {
        kind: max(cost[r["instruction"]] for r in ROWS if r["kind"] == kind) for kind in weights
    }
    told = {g["group"]: g for g in summary.facts("select")["chosen"]["mixture"]}
    for kind, weight in weights.items():
        asked = budget * weight / 100
        assert told[kind]["asked"] == asked and told[kind]["unit"] == "tokens"
        assert told[kind]["achieved"] == told[kind]["tokens"] == trained[kind]
        assert abs(asked - trained[kind]) < 2 * dearest[kind] + dearest["chat"]
        assert told[kind]["achieved_percent"] == pytest.approx(
            100 * trained[kind] / sum(trained.values())
        )
    facts = summary.facts("select")["chosen"]
    assert facts["total_tokens"] == facts["spent"] == sum(trained.values()) <= budget
    assert facts["rows_shown"] == len(found["ids"]) == len(set(found["ids"]))
    times = Counter(row["instruction"] for row in found["rows"])
    assert {times[r["instruction"]] for r in found["rows"] if r["kind"] == "code"} == {2}
    assert {times[r["instruction"]] for r in found["rows"] if r["kind"] == "chat"} == {1}
    # Second showings come after all first ones, under ids that name the sample.
    assert [i.partition("~")[0] for i in found["ids"][facts["kept"] :]] == [
        i
        for i, row in zip(found["ids"][: facts["kept"]], found["rows"], strict=False)
        if row["kind"] == "code"
    ]
    table = pq.read_table(
        summary.store / "selections" / summary.keys["chosen/selection"] / "rows.parquet"
    )
    kept = table.filter(table["kept"])
    assert sum(kept["repeat"].to_pylist()) == facts["rows_shown"]
    assert table["repeat"].null_count == table.num_rows - kept.num_rows


def test_the_mixture_is_printed_and_in_the_document(mixed: Callable[..., Summary]) -> None:
    summary = mixed({"rows": 100}, weights={"code": 90.0, "chat": 10.0})
    text = "\n".join(lines(summary))
    assert "asked" in text and "achieved" in text
    (code,) = [line.split() for line in text.splitlines() if line.strip().startswith("code")]
    # There are only 60 rows of code, which the mixture wanted 90 of.
    assert code[:9] == ["code", "90", "rows", "90.0", "%", "60", "rows", "60.0", "%"]
    stages = json.loads(json.dumps(document(summary)))["stages"]
    (facts,) = [s["facts"]["chosen"] for s in stages if s["stage"] == "select"]
    assert [(g["group"], g["asked"], g["achieved"]) for g in facts["mixture"]] == [
        ("chat", 10, 40),
        ("code", 90, 60),
    ]
    assert sum(g["tokens"] for g in facts["mixture"]) == facts["total_tokens"]


def test_several_columns_make_a_group(mixed: Callable[..., Summary]) -> None:
    weights = {"code/de": 1.0, "chat/en": 3.0}
    summary = mixed({"rows": 40}, by=["kind", "language"], weights=weights)
    times = Counter((r["kind"], r["language"]) for r in manifest(summary)["rows"])
    assert times == {("code", "de"): 10, ("chat", "en"): 30}


def test_only_rows_of_the_licences_are_chosen_or_held_out(mixed: Callable[..., Summary]) -> None:
    blocks = {
        "licences": [" apache-2.0", "mit"],
        "tune": {"model": "lm"},
        "evaluate": {"holdout_percent": 10},
    }
    summary = mixed({"rows": 100}, blocks=blocks)
    for subset in ("chosen", "baseline"):
        found = {row["licence"] for row in manifest(summary, subset)["rows"]}
        assert found <= {"Apache-2.0", "MIT"}
        folder = summary.store / "manifests" / summary.keys[f"{subset}/manifest"]
        rows = manifests.read(folder).rows("heldout")
        by_text = {row["instruction"]: row for row in ROWS}
        held = {by_text[m[0]["content"]]["licence"] for m in rows["messages"].to_pylist()}
        assert held == {"Apache-2.0", "MIT"} and rows.num_rows == 50
    facts = summary.facts("select")["chosen"]
    assert facts["dropped"]["licence"] == 120
    assert facts["licences_refused"] == {"cc-by-nc-4.0": 60, "unknown": 60}
    assert facts["kept"] == 70  # 120 rows are allowed, 50 of them held out
    assert "licence not allowed: 60 cc-by-nc-4.0, 60 unknown" in "\n".join(lines(summary))


def test_licences_nobody_has_are_told(mixed: Callable[..., Summary]) -> None:
    with pytest.raises(DataError, match=r"licences gpl; there is .*\(60 rows\)"):
        mixed({"rows": 10}, blocks={"licences": ["gpl"]})
    with pytest.raises(ValueError, match="licences"):
        Recipe.model_validate({"sources": {"a": {"stored": True}}, "licences": []})


def test_the_random_subset_costs_what_is_shown(
    make_context: Callable[..., Context], pool: dict[str, Any], model: dict[str, Any]
) -> None:
    select = {
        "method": "quota",
        "options": {"by": ["kind"], "repeat": {"*": 3}},
        "budget": {"rows": 90},
    }
    blocks = {"tune": {"model": "lm"}, "evaluate": {"holdout_percent": 1}}
    summary = run(make_context(sources=pool, models=model, select=select, **blocks), until="export")
    chosen, baseline = (summary.facts("select")[s] for s in ("chosen", "baseline"))
    assert (chosen["kept"], chosen["rows_shown"]) == (30, 90)
    assert baseline["limit"] == chosen["total_tokens"]
    assert np.isclose(baseline["total_tokens"], chosen["total_tokens"], rtol=0.1)


def test_groups_nobody_has_are_told(mixed: Callable[..., Summary]) -> None:
    with pytest.raises(RecipeError, match=r"quota\.repeat.*did you mean code"):
        mixed({"rows": 10}, repeat={"cod": 2})
