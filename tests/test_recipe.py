"""Recipes are checked for structure, changed by settings, and told about in one line."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml

from tamis import recipe
from tamis.errors import RecipeError

MINIMAL: dict[str, Any] = {"sources": {"pool": {"path": "a.jsonl"}}}


def build(content: dict[str, Any], *settings: str) -> recipe.Recipe:
    return recipe.build(content, settings, where="test")


def test_the_starter_recipe_is_valid(tmp_path: Path) -> None:
    text = resources.files("tamis").joinpath("recipe.yaml").read_text("utf-8")
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    loaded = recipe.load(path)
    assert loaded.select is not None and loaded.select.method == "deita"
    assert loaded.tune is not None and loaded.evaluate is not None


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parent.parent / "examples").glob("*.yaml")), ids=str
)
def test_every_example_is_valid(path: Path) -> None:
    recipe.load(path)


def test_settings_reach_every_depth_and_leave_the_rest() -> None:
    content = {
        **MINIMAL,
        "filters": [{"column": "nll.mean", "max": 3}],
        "select": {"method": "top", "budget": {"rows": 5}, "options": {"score": "x"}},
    }
    changed = build(
        content,
        "seed=7",
        "sources.pool.limit=10",
        "filters.0.max=4.5",
        "select.budget={percent: 20}",
        "select.options.largest=false",
        "models.lm.path=m",
        "models.lm.prompt_style=chat",
    )
    assert changed.seed == 7
    assert changed.sources["pool"].limit == 10
    assert changed.filters[0].max == 4.5
    assert changed.select is not None
    assert changed.select.budget.percent == 20
    assert changed.select.options == {"score": "x", "largest": False}
    assert changed.models["lm"].prompt_style == "chat"
    assert content["filters"] == [{"column": "nll.mean", "max": 3}]


def test_null_takes_a_value_out() -> None:
    content = {**MINIMAL, "evaluate": {"path": "e.jsonl"}, "tune": {"model": "lm"}}
    assert build(content, "evaluate=null").evaluate is None


@pytest.mark.parametrize(
    ("content", "settings", "told"),
    [
        ({}, [], "sources"),
        ({"sources": {}}, [], "sources"),
        ({"sources": {"pool": {}}}, [], "exactly one of path, hf and stored"),
        ({"sources": {"pool": {"path": "a", "hf": "b"}}}, [], "exactly one of path"),
        ({"sources": {"Bad Name": {"path": "a"}}}, [], "pattern"),
        (MINIMAL, ["sede=3"], "sede"),
        (MINIMAL, ["seed"], "a.b=value"),
        (MINIMAL, ["seed=[1"], "not valid YAML"),
        (MINIMAL, ["seed.x=1"], "Extra inputs|valid integer|nothing can be set"),
        (MINIMAL, ["filters.0.max=1"], "position|filters"),
        ({**MINIMAL, "filters": [{"column": "x"}]}, [], "highest_percent or is_in"),
        ({**MINIMAL, "select": {"method": "top", "budget": {}}}, [], "exactly one of rows"),
        (
            {**MINIMAL, "select": {"method": "top", "budget": {"rows": 1, "tokens": 2}}},
            [],
            "exactly one of rows",
        ),
        ({**MINIMAL, "models": {"lm": {"path": "m"}}}, [], "prompt_style"),
        ({**MINIMAL, "models": {"lm": {"prompt_style": "chat"}}}, [], "path, hub and endpoint"),
        ({**MINIMAL, "select": {"method": "top", "budget": {"rows": -1}}}, [], "greater"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(
    content: dict[str, Any], settings: list[str], told: str
) -> None:
    with pytest.raises(RecipeError, match=told) as caught:
        build(content, *settings)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_recipes(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot read"):
        recipe.load(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(RecipeError, match="mapping"):
        recipe.load(tmp_path / "list.yaml")
    (tmp_path / "broken.yaml").write_text("a: [1\nb: {")
    with pytest.raises(RecipeError, match="not valid YAML") as caught:
        recipe.load(tmp_path / "broken.yaml")
    assert "\n" not in str(caught.value)


def test_a_name_that_stands_twice_is_told(tmp_path: Path) -> None:
    """YAML lets the last one win: a method would vanish without a word."""
    path = tmp_path / "twice.yaml"
    path.write_text("compare:\n  methods:\n    a: {method: random}\n    a: {method: top}\n")
    with pytest.raises(RecipeError, match=r"'a' stands twice.* line 4") as caught:
        recipe.load(path)
    assert "\n" not in str(caught.value)


def test_yaml_makes_no_objects(tmp_path: Path) -> None:
    (tmp_path / "evil.yaml").write_text("sources: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(RecipeError):
        recipe.load(tmp_path / "evil.yaml")


def test_the_blocks_of_its_page_are_recipes() -> None:
    page = Path(__file__).resolve().parent.parent.joinpath("docs", "recipe.md").read_text("utf-8")
    blocks = re.findall(r"```yaml\n(.+?)```", page, re.DOTALL)
    assert blocks
    for block in blocks:
        build({**MINIMAL, **yaml.safe_load(block)})
    named = set(re.findall(r"`(\w+)`", page.split("## Columns")[0]))
    assert set(recipe.Recipe.model_fields) <= named
