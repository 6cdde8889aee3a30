"""The grid of evidence: its recipes, its pools, and the tables made of cells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from evidence import grid, page, pools
from tamis.errors import DataError
from tamis.pipelines import plan

SIZES = ("small", "large")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", grid.settings())
def test_every_contestant_passes_the_check_before_a_run(
    name: str, size: str, tmp_path: Path, base_model: Path
) -> None:
    setting = grid.settings()[name]
    place = grid.Place(tmp_path, str(base_model), tmp_path, size)
    for entry in setting.contestants.values():
        ctx = grid._context(setting, place, [*entry.get("set", ()), "seed=1"], entry)
        plan.check(ctx.recipe, ctx.store, ctx.device)
    assert {setting.start, setting.goal} <= set(setting.contestants)


def test_pools_hold_no_truth_and_no_row_that_is_evaluated_on(
    real_data: Path, base_model: Path, tmp_path: Path
) -> None:
    pools.make(real_data, str(base_model), "small", tmp_path)
    read = {p.stem: pq.read_table(p) for p in tmp_path.glob("*.parquet")}
    assert {name for t in read.values() for name in t.column_names} == {
        "row", "instruction", "output", "family",
    }  # fmt: skip
    rows = {name: set(t.column("row").to_pylist()) for name, t in read.items()}
    for pool, others in {
        "noisy": ("choice", "heldout"),
        "clean": ("choice", "heldout"),
        "skewed": ("skewed_choice", "skewed_heldout"),
        "mixed": ("wanted", "target_choice", "target_heldout"),
    }.items():
        assert not any(rows[pool] & rows[other] for other in others)
    right = json.loads((tmp_path / pools.TRUTH).read_text())
    pairs = read["noisy"].select(["row", "output"]).to_pylist()
    wrong = {pair["row"] for pair in pairs if right[pair["row"]] != pair["output"]}
    assert rows["uncorrupted"] == rows["noisy"] - wrong
    assert 0.2 < len(wrong) / len(pairs) < 0.35
    assert read["noisy"].column("instruction") == read["clean"].column("instruction")
    counts = pc.value_counts(read["skewed_heldout"].column("family")).field("counts")
    assert len(set(counts.to_pylist())) == 1
    copies = 1 - len(rows["skewed"]) / read["skewed"].num_rows
    assert copies == pytest.approx(pools.COPIES, abs=0.01)


@pytest.fixture
def cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A setting of which cells are written by their share of right answers, and its table."""
    monkeypatch.setattr(grid, "HERE", tmp_path)
    setting = grid.Setting(
        "made", "", "pool", "heldout", "random", "oracle", "exact_match",
        {"random": {}, "oracle": {}, "good": {}, "poor": {}}, 0.75,
    )  # fmt: skip

    def write(shares: dict[str, list[float]], rows: int = 400, digest: str = "d") -> str:
        draw = np.random.default_rng(0).random(rows)
        for contestant, values in shares.items():
            for seed, share in enumerate(values):
                match = "".join("01"[int(x < share)] for x in draw)
                cell = {
                    "figures": {"exact_match": match.count("1") / rows},
                    "heldout": digest,
                    "match": match,
                    "kept": {"rows": 100, "wrong": 10},
                    "tuned": {"tokens_seen": 1000},
                    "processor_seconds": 60.0,
                }
                path = grid.Cell(setting, contestant, seed, "small").path
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(cell))
        return page.table(setting, "small")

    return write


def test_the_verdict_follows_from_the_cells(cells: Any) -> None:
    text = cells(
        {
            "random": [0.50, 0.51, 0.49],
            "oracle": [0.70, 0.71, 0.69],
            "good": [0.66, 0.67, 0.65],
            "poor": [0.50, 0.49, 0.50],
        }
    )
    assert "Above random: good." in text
    assert "No difference shown from random: poor." in text
    assert "Met: good, 8" in text
    assert "missing" not in text
    assert "| good | 3 |" in text


def test_a_missing_cell_is_named_and_only_common_seeds_are_paired(cells: Any) -> None:
    text = cells({"random": [0.5, 0.5, 0.9], "oracle": [0.7, 0.7, 0.7], "good": [0.6, 0.6]})
    assert "Cells that are missing, by seed: good (2), poor (0, 1, 2)." in text
    # The third seed of random, which good lacks, takes no part in good's difference.
    (line,) = [x for x in text.splitlines() if x.startswith("| good")]
    assert "+0.1" in line or "+0.09" in line
    assert "Not met so far, on 2 of 3 seeds: good, 5" in text


def test_there_is_no_share_where_the_references_do_not_differ(cells: Any) -> None:
    text = cells({"random": [0.50, 0.55], "oracle": [0.51, 0.54], "good": [0.9, 0.9]})
    assert "The references do not differ beyond the interval." in text
    assert (
        "%" not in "".join(x for x in text.splitlines() if x.startswith("| good")).split("10 %")[0]
    )
    assert "of the way from" not in text


def test_cells_of_different_rows_are_not_compared(cells: Any) -> None:
    cells({"random": [0.5], "oracle": [0.7]})
    with pytest.raises(DataError, match="different rows"):
        cells({"good": [0.6]}, digest="other")


def test_only_what_stands_between_the_marks_is_replaced() -> None:
    text = "before\n<!-- cells: a small -->\nold\n<!-- end of cells -->\nafter\n"
    new = page.replaced(text, "a small", "new\n")
    assert new == text.replace("old", "new")
    assert page.replaced(text, "b small", "new\n") == text


def test_the_page_stands_as_the_cells_make_it() -> None:
    text = page.PAGE.read_text(encoding="utf-8")
    for setting in grid.settings().values():
        assert f"<!-- cells: {setting.name} small -->" in text
        assert page.replaced(text, f"{setting.name} small", page.table(setting, "small")) == text
