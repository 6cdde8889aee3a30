"""Every online rule has a page with the same headings, and its example runs."""

import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from tamis.selectors.online import get, names

PAGES = Path(__file__).resolve().parents[3] / "docs" / "methods" / "online"
HEADINGS = ["What", "Formula", "Options", "Cost", "Differs from", "Example"]


@pytest.mark.parametrize("name", names())
def test_page(name):
    page = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    assert page.startswith(f"# {name}\n")
    assert re.findall(r"^## (.+)$", page, re.MULTILINE) == HEADINGS
    options = page.split("## Options")[1].split("## Cost")[0]
    rows = re.findall(r"^\| `(\w+)` \| (\S+) \|", options, re.MULTILINE)
    assert [option for option, _ in rows] == [field.name for field in fields(get(name))]
    for field, (_, default) in zip(fields(get(name)), rows, strict=True):
        assert str(field.default) == default or float(default) == field.default


@pytest.mark.parametrize("name", names())
def test_example_runs(name):
    page = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    code = re.search(r"## Example\n```python\n(.+?)```", page, re.DOTALL).group(1)
    used: dict = {}
    exec(code, used)
    assert used["picked"].dtype == np.int64 and len(used["picked"]) == 2


def test_no_page_is_left_over():
    assert sorted(path.stem for path in PAGES.glob("*.md")) == sorted(names())
