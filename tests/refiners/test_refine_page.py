"""The page of the refiners: a recipe that builds, and every option with its default."""

import dataclasses
import re
from pathlib import Path

import yaml

from tamis import recipe
from tamis.refiners.clear import ClearCorrect
from tamis.refiners.s3ft import S3ft

PAGE = Path(__file__).resolve().parents[2] / "docs" / "refine.md"


def test_the_recipe_of_the_page_is_one():
    (block,) = re.findall(r"```yaml\n(.+?)```", PAGE.read_text("utf-8"), re.DOTALL)
    content = {"sources": {"pool": {"path": "rows.jsonl"}}, **yaml.safe_load(block)}
    assert recipe.build(content, where="page").refine is not None


def test_every_option_is_told_with_its_default():
    page = PAGE.read_text("utf-8")
    for kind in (ClearCorrect, S3ft):
        section = page.split(f"## {kind.name}\n")[1].split("\n## ")[0]
        rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \|", section, re.MULTILINE)
        fields = [f for f in dataclasses.fields(kind) if f.name not in ("model", "judge", "device")]
        assert [name for name, _ in rows] == [f.name for f in fields]
        for (_, told), field in zip(rows, fields, strict=True):
            shown = "none" if field.default is None else str(field.default)
            if isinstance(field.default, tuple):
                shown = f"[{', '.join(field.default)}]"
            assert told == shown, field.name
