"""The page of every scorer: its headings, its options and fields, an example that is a recipe."""

import dataclasses
import re
from pathlib import Path

import pytest
import yaml

from tamis import recipe
from tamis.registry import options
from tamis.scoring import registry
from tamis.scoring.registry import GIVEN, _kind

PAGES = Path(__file__).resolve().parents[2] / "docs" / "methods"
HEADINGS = ["What", "Formula", "Options", "Cost", "Differs from", "Example"]


@pytest.mark.parametrize("name", registry.names())
def test_page(name: str) -> None:
    page = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    assert page.startswith(f"# {name}\n")
    assert re.findall(r"^## (.+)$", page, re.MULTILINE) == HEADINGS
    kind = _kind(name)
    options = {f.name for f in dataclasses.fields(kind)} - set(GIVEN)
    section = page.split("## Options")[1].split("## Cost")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == options
    assert all(f"`{field}`" in page for field in kind.fields)


@pytest.mark.parametrize("name", registry.names())
def test_example(name: str) -> None:
    page = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(.+?)```", page, re.DOTALL)
    content = {"sources": {"pool": {"path": "rows.jsonl"}}, **yaml.safe_load(block)}
    read = recipe.build(content, where=name)
    kinds = {given: entry.scorer or given for given, entry in read.scores.items()}
    # One that looks at the whole pool may read signals of others.
    assert name in kinds.values()
    assert set(kinds.values()) == {name} or hasattr(_kind(name), "score_pool")
    for given, entry in read.scores.items():
        options(_kind(kinds[given]), entry.options, leave=GIVEN)
        free = registry.takes_encoder(kinds[given])
        assert entry.model is None or free or entry.model in read.models
    for rule in read.filters:
        scorer, _, field = rule.column.partition(".")
        assert field in _kind(kinds[scorer]).fields
