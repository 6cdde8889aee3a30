"""Every method has a page with the same headings, and its example runs."""

import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from tamis.selectors import get, names

PAGES = Path(__file__).resolve().parents[2] / "docs" / "methods"
HEADINGS = ["What", "Formula", "Options", "Cost", "Differs from", "Example"]
every = pytest.mark.parametrize("name", names())


@every
def test_page_has_the_headings_and_names_every_option(name):
    page = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    assert page.startswith(f"# {name}\n")
    assert re.findall(r"^## (.+)$", page, re.MULTILINE) == HEADINGS
    options = page.split("## Options")[1].split("## Cost")[0]
    for field in fields(get(name)):
        assert f"`{field.name}`" in options, f"{name}.{field.name} is not on its page"


@every
def test_example_runs(name):
    page = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    code = re.search(r"## Example\n```python\n(.+?)```", page, re.DOTALL).group(1)
    used: dict = {}
    exec(code, used)
    assert used["picked"].dtype == np.int64 and len(used["picked"]) > 0
