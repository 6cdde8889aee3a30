"""What the README shows works as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

README = (Path(__file__).resolve().parent.parent / "README.md").read_text(encoding="utf-8")


def test_the_selector_example_runs() -> None:
    rng = np.random.default_rng(0)
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    code = next(b for b in blocks if "selectors" in b).replace("1000", "20")
    given = {"x": rng.normal(size=(50, 8)).astype(np.float32), "ifd": rng.random(50)}
    namespace: dict[str, object] = dict(given)
    exec(compile(code, "README.md", "exec"), namespace)
    picked = namespace["picked"]
    best = int(np.argmax(given["ifd"]))
    assert len(picked.index) == 20  # type: ignore[attr-defined]
    assert picked.index[0] == best  # type: ignore[attr-defined]


def test_every_link_leads_somewhere() -> None:
    root = Path(__file__).resolve().parent.parent
    pages = [root / "README.md", *(root / "docs").rglob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            if not target.startswith(("http", "mailto")):
                assert (page.parent / target).exists(), f"{page.name}: {target}"
