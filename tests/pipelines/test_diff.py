"""`tamis diff`: rows in and out between two releases, and why, against what was planted."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tamis.errors import StoreError
from tamis.pipelines.context import Context
from tamis.pipelines.diff import _match, diff
from tamis.pipelines.diff_lines import lines
from tamis.pipelines.run import run
from tamis.recipe import Recipe
from tamis.storage.artifact import Store

ROWS = [{"instruction": f"Say {i}.", "output": "word " * (i + 1)} for i in range(20)]
# Twice: their copies are rows of their own.
ROWS += [ROWS[3], ROWS[3]]


@pytest.fixture
def released(tmp_path: Path, no_progress: Any) -> Any:
    """Run a recipe over rows in a file, by a source of this name; gives the id of the run."""

    def make(rows: list[dict[str, str]], source: str = "pool", **more: Any) -> str:
        path = tmp_path / f"{source}.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        content = {
            "sources": {source: {"path": str(path)}},
            "scores": {"length": {}},
            "filters": [{"column": "length.answer_words", "min": 3}],
            "select": {
                "method": "top",
                "options": {"column": "length.answer_words"},
                "budget": {"rows": 6},
            },
            **more,
        }
        store = Store(tmp_path / "store")
        ctx = Context(Recipe.model_validate(content), store, "cpu", lambda _: None, no_progress)
        return run(ctx, until="select").run_id

    return make


def counts(told: dict[str, Any], name: str) -> dict[tuple[str, str], int]:
    return {(g["was"], g["now"]): g["count"] for g in told[name]}


def test_every_way_a_row_comes_in_or_goes_out_is_told(released: Any, tmp_path: Path) -> None:
    first = released(ROWS)
    # The two longest are gone, one longer than all is new, and fewer words pass no longer.
    rows = [*ROWS[:18], *ROWS[20:], {"instruction": "New.", "output": "word " * 40}]
    second = released(rows, filters=[{"column": "length.answer_words", "max": 17}])
    told = diff(Store(tmp_path / "store"), first, second)
    assert told["pool"] == {"common": 20, "new": 1, "gone": 2, "renamed": 0}
    # Of 20, 19, 18, 17, 16, 15 words; then of 17, 16, 15, 14, 13, 12.
    assert counts(told, "out") == {
        ("selected", "not_in_the_pool"): 2,
        ("selected", "filter:length.answer_words"): 1,
    }
    assert counts(told, "in") == {("below_cut", "selected"): 3}
    assert told["stay"] == {"rows": 3, "other_rank": 3}
    filtered = next(g for g in told["out"] if g["now"].startswith("filter"))
    assert filtered["rows"][0]["value_before"] == filtered["rows"][0]["value"] == 18
    changed = {one["setting"] for one in told["settings"]}
    assert changed == {"filters"}
    assert told["signals"] == []


def test_rows_of_a_renamed_source_are_the_same_content(released: Any, tmp_path: Path) -> None:
    released(ROWS)
    released(ROWS, source="other")
    told = diff(Store(tmp_path / "store"), "latest~1", "latest")
    assert told["pool"] == {"common": 22, "new": 0, "gone": 0, "renamed": 22}
    assert (told["in"], told["out"]) == ([], [])
    assert told["stay"]["rows"] == 6


def test_filtered_then_kept_and_a_signal_computed_anew(released: Any, tmp_path: Path) -> None:
    def scored(scorer: str) -> dict[str, Any]:
        """The same column by another scorer: the order turned round, or not."""
        options = {"column": "length.answer_words"}
        return {"length": {}, "own": {"scorer": scorer, "options": options}}

    choice = {"method": "top", "options": {"column": "own.value"}, "budget": {"rows": 6}}
    first = released(
        ROWS,
        scores=scored("rank"),
        select=choice,
        filters=[{"column": "length.answer_words", "max": 17}],
    )
    second = released(ROWS, scores=scored("robust_z"), select=choice, filters=[])
    told = diff(Store(tmp_path / "store"), first, second)
    assert counts(told, "in") == {("filter:length.answer_words", "selected"): 3}
    assert {g["now"] for g in told["out"]} == {"below_cut"}
    moved = next(s for s in told["signals"] if s["signal"] == "own.value")
    assert moved["rows"] == 22
    assert 0 < moved["moved"] <= 22
    shown = "\n".join(lines(told))
    assert (
        "not chosen before (filter:length.answer_words: the filter on length.answer_words" in shown
    )
    assert "scores.own.scorer: rank -> robust_z" in shown
    assert "own.value:" in shown


def test_copies_of_a_content_are_paired_one_to_one_as_a_loop_would() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        tables = []
        for side in range(2):
            n = int(rng.integers(0, 12))
            ids = rng.choice(14, size=n, replace=False)
            names = sorted(f"{'ab'[side] if i % 3 else 'x'}{i:02d}" for i in ids)
            keys = [f"k{rng.integers(4)}" if i[0] != "x" else f"k{i}" for i in names]
            tables.append(
                pa.table(
                    {"id": pa.array(names, pa.string()), "content_key": pa.array(keys, pa.string())}
                )
            )
        left, right = _match(*tables)
        pairs = set(zip(left.tolist(), right.tolist(), strict=True))
        assert len(pairs) == len(set(left.tolist())) == len(set(right.tolist()))
        old, new = (t.to_pylist() for t in tables)
        by_id = {r["id"]: i for i, r in enumerate(old)}
        want = {(by_id[r["id"]], j) for j, r in enumerate(new) if r["id"] in by_id}
        rest = [Counter(), Counter()]
        for side, rows in enumerate((old, new)):
            used = {pair[side] for pair in want}
            rest[side].update(r["content_key"] for i, r in enumerate(rows) if i not in used)
        assert want <= pairs
        assert len(pairs) - len(want) == sum((rest[0] & rest[1]).values())
        for i, j in pairs - want:
            assert old[i]["content_key"] == new[j]["content_key"]


def test_the_command_and_its_errors(released: Any, tmp_path: Path) -> None:
    def tamis(*args: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "tamis", "diff", *args, "--store", str(tmp_path / "store")],
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done

    first = released(ROWS)
    released(ROWS[:19])
    shown = tamis().stdout
    assert "out: 1 gone from the pool" in shown
    told = json.loads(tamis(first, "latest", "--json").stdout)
    assert told["before"]["run"] == first
    assert counts(told, "out") == {("selected", "not_in_the_pool"): 1}
    with pytest.raises(StoreError, match="has 2 runs that chose a subset"):
        diff(Store(tmp_path / "store"), "latest~2", "latest")
    assert "no run's id" in tamis("nobody", code=1).stderr
    assert "more than one run's id" in tamis(first[:4], code=1).stderr
