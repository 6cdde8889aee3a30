"""The section of compared methods: what it says, and how it looks in a real browser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tamis.report import (
    Contest,
    Curve,
    Interval,
    Line,
    Methods,
    Overlap,
    ReportData,
    Winner,
    render,
    write,
)
from tamis.report import methods as drawn
from tamis.report.verdict import aside, sentence

CHROMIUM = shutil.which("chromium")
NONE, WORSE = "no difference shown", "worse than random"


def contest(
    method: str, budget: str, mean: float, difference: Interval | None, verdict: str
) -> Any:
    kind = "baseline" if method == "random" else "contestant"
    return Contest(
        method, kind, budget, mean, 0.01, difference, verdict, {"nll": 0.2}, 300, 6000, 50, 0.1, 20
    )


def made() -> Methods:
    lines = []
    for budget in ("6,000 tokens", "12,000 tokens"):
        lines += [
            contest("curated", budget, 0.86, Interval(0.05, 0.02, 0.08), "better than random"),
            contest("diverse", budget, 0.82, Interval(0.01, -0.02, 0.04), NONE),
            contest("random", budget, 0.81, None, ""),
            contest("hard", budget, 0.6, Interval(-0.21, -0.3, -0.12), "worse than random"),
        ]
    full = contest("full", "all rows", 0.8, Interval(-0.01, -0.05, 0.03), NONE)
    winners = [
        Winner(b, "curated", 0.87, 100, 100, Interval(0.05, 0.01, 0.09), "better than random",
               "diverse", Interval(0.03, -0.01, 0.07), NONE,
               0.86, Interval(0.01, -0.02, 0.04), NONE)
        for b in ("6,000 tokens", "12,000 tokens")
    ]  # fmt: skip
    names = ["curated", "diverse", "random", "hard"]
    curve = Curve(
        "Exact match",
        "tokens",
        [
            Line(n, [6000, 12000], [0.8, 0.8 + i / 50], spread=[0.02, 0.01])
            for i, n in enumerate(names)
        ],
    )
    jaccard = [[1.0 if i == j else 0.25 for j in range(4)] for i in range(4)]
    return Methods(
        "exact_match", "higher", 3, 0.9929, "seed and evaluation row",
        [*lines, replace(full, kind="reference")], winners, ["1 seed <b>only</b>"], [curve],
        [Overlap("6,000 tokens", names, jaccard)], 0.86, ["nll"],
    )  # fmt: skip


def data(given: Methods) -> ReportData:
    return ReportData("demo", "run", "2026-01-01", "deita", {"selected": 300}, methods=given)


def test_the_verdict_is_about_the_largest_budget() -> None:
    told = sentence(data(made()))
    assert told.startswith("At 12,000 tokens curated came first, exact match 0.870 on held-out")
    assert "better than random rows by 0.050 [0.010, 0.090]" in told
    assert told.endswith("; selecting took 0.1 s, tuning 20.0 s.")
    assert told.count(". ") == 0  # one sentence
    beside = aside(data(made()))
    assert beside.startswith("No difference is shown to the second, diverse. The untuned model has")
    assert beside.endswith("exact match 0.860 on the same rows: no difference shown.")
    better = replace(
        made().winners[-1],
        minus_untuned=Interval(-0.1, -0.2, -0.05),
        against_untuned="worse than x",
    )
    beside = aside(data(replace(made(), winners=[better])))
    assert beside.endswith("curated is worse than it by 0.100 [0.050, 0.200].")


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (
            {"verdict": NONE, "minus_random": Interval(0.0, -0.1, 0.1)},
            "No difference shown at 12,0",
        ),
        ({"method": "random", "minus_random": None, "verdict": ""}, "No method beat random rows"),
        ({"minus_random": None, "verdict": NONE}, "nothing known of other seeds"),
        (
            {"minus_random": Interval(-0.2, -0.3, -0.1), "verdict": WORSE},
            "worse than",
        ),
    ],
)
def test_the_verdict_claims_nothing_that_was_not_shown(changed: dict[str, Any], told: str) -> None:
    given = made()
    last = replace(given.winners[-1], **changed)
    said = sentence(data(replace(given, winners=[given.winners[0], last])))
    assert told in said
    assert "better than random" not in said


def test_the_section_is_there_only_where_methods_were_compared() -> None:
    assert 'id="methods"' in render(data(made()))
    assert 'id="methods"' not in render(replace(data(made()), methods=None))


def test_a_line_far_away_is_told_and_not_drawn() -> None:
    from tamis.pipelines.reporting.methods import _near

    lines = [Line(f"m{i}", [1, 2], [0.8 + i / 100, 0.81 + i / 100]) for i in range(5)]
    far = Line("bad", [1, 2], [0.1, 0.2])
    assert _near([*lines, far]) == (lines, [far])
    assert _near(lines) == (lines, [])
    same = [Line("a", [1, 2], [0.5, 0.5]), Line("b", [1, 2], [0.5, 0.5])]
    assert _near(same) == (same, [])


def test_differences_without_bounds_are_not_drawn() -> None:
    given = made()
    bare = [replace(line, difference=None) for line in given.lines]
    page = render(data(replace(given, lines=bare, level=0.95)))
    assert "whisker better" not in page
    assert drawn.count(None) == drawn.seconds(None) == "–"


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(data(made()), tmp_path_factory.mktemp("methods") / "page.html")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no chromium on the path: the section of methods is not looked at")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as running:
        yield running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (1200, "dark"), (400, "light")])
def test_in_a_browser(browser: Any, page_file: Path, width: int, scheme: str) -> None:
    shown = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    said: list[str] = []
    shown.on("console", lambda message: said.append(message.text))
    shown.on("request", lambda request: said.append(request.url))
    shown.goto(page_file.as_uri())
    assert said == [page_file.as_uri()]
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    section = shown.locator("#methods")
    assert section.locator("table.methods tbody tr:not(.group)").count() == 10
    assert section.locator("tr.group").all_inner_texts() == [
        "6,000 tokens", "12,000 tokens", "all rows"
    ]  # fmt: skip
    # Two budgets have a chart of differences; the full pool alone has none.
    assert section.locator("figure:has(circle.dot)").count() == 2
    assert section.locator("circle.point").count() == 8
    assert "1 seed <b>only</b>" in section.inner_text()
    ink, better, worse = (
        section.locator(where).first.evaluate("e => getComputedStyle(e).color")
        for where in ("td", ".verdict.better", ".verdict.worse")
    )
    assert len({ink, better, worse}) == 3
    full, part = (
        section.locator("table.overlap td.n")
        .nth(i)
        .evaluate("e => getComputedStyle(e).backgroundColor")
        for i in (0, 1)
    )
    assert full != part
    shown.close()
