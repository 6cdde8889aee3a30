"""The report page: escaping, self-containment, structure, numbers, and a look by a real browser."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tamis.report import Histogram, Interval, ReportData, Sample, Stage, render, write
from tamis.report.lines import lines
from tamis.report.numbers import decimal, duration, integer, interval
from tamis.report.parts import Curve, Line
from tamis.report.verdict import DECISIVE, aside, judged, sentence

VOID = {"meta", "link", "br", "img", "rect", "line", "circle"}


def _pages() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "report_pages", Path(__file__).with_name("pages.py")
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["report_pages"] = module
    spec.loader.exec_module(module)
    return module


pages = _pages()


class Outline(HTMLParser):
    """Collects tags, attributes and text; fails on tags that do not nest."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> does not close what is open"

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text.append(data)


def outline(html: str) -> Outline:
    parser = Outline()
    parser.feed(html)
    parser.close()
    assert parser.open == []
    return parser


def everywhere_evil() -> ReportData:
    """The full page with a hostile text in the place of every text."""

    def spoil(value: object) -> object:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {f.name: spoil(getattr(value, f.name)) for f in dataclasses.fields(value)}
            return type(value)(**fields)
        if isinstance(value, str):
            return pages.EVIL + value
        if isinstance(value, dict):
            return {spoil(k): spoil(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(spoil(v) for v in value)
        return value

    spoilt = spoil(pages.full())
    assert isinstance(spoilt, ReportData)
    return spoilt


def test_hostile_texts_stay_texts() -> None:
    clean, evil = outline(render(pages.full())), outline(render(everywhere_evil()))
    assert {tag for tag, _ in evil.tags} == {tag for tag, _ in clean.tags}
    assert not {"script", "img", "iframe", "object"} & {tag for tag, _ in evil.tags}
    assert not [a for _, attrs in evil.tags for a in attrs if a.startswith("on")]
    assert "<script>alert(1)</script>" in "".join(evil.text)


def test_control_characters_become_visible() -> None:
    html = render(everywhere_evil())
    assert "\x00" not in html and "\x1b" not in html
    assert "\u2400" in html and "\u241b" in html


def test_lone_surrogates_do_not_break_writing(tmp_path: Path) -> None:
    row = Sample("0" * 32, "s", [("user", "half a character: \ud83d")], "why")
    data = dataclasses.replace(pages.full(), kept=[row])
    assert "\ufffd" in write(data, tmp_path / "r.html").read_text(encoding="utf-8")


def test_page_needs_no_network() -> None:
    for data in (pages.full(), everywhere_evil()):
        page = outline(render(data))
        for tag, attrs in page.tags:
            for name in ("src", "href", "action", "data", "srcset", "xlink:href"):
                value = attrs.get(name)
                assert value is None or value.startswith("#") or value == "data:,", (tag, value)
        style = render(pages.full()).split("<style>")[1].split("</style>")[0]
        assert "url(" not in style and "@import" not in style


def test_structure_is_whole_and_reachable() -> None:
    page = outline(render(pages.full()))
    tags = [tag for tag, _ in page.tags]
    assert tags.count("h1") == 1 and tags.count("main") == 1
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    links = [attrs["href"] for tag, attrs in page.tags if tag == "a"]
    assert links and {str(link).removeprefix("#") for link in links} <= set(ids)
    for _, attrs in page.tags:
        if "scroll" in (attrs.get("class") or "").split():
            assert attrs.get("tabindex") == "0"  # what scrolls can be scrolled by keyboard
    drawings = [attrs for tag, attrs in page.tags if tag == "svg"]
    assert len(drawings) == 5 + 2 + 2  # signals, compared figures, differences
    assert all(d["role"] == "img" and d["aria-label"] for d in drawings)


def test_numbers_on_the_page_are_those_of_the_data() -> None:
    data = pages.full()
    text = re.sub(r"[ \n]+", " ", " ".join(outline(render(data)).text))
    for name, count in data.counts.items():
        assert f"{name} {integer(count)}" in text
    for part in data.composition:
        row = [part.rows_before, part.rows_after, part.tokens_before, part.tokens_after]
        assert f"{part.source} {' '.join(integer(n) for n in row)}" in text
    assert "47.5% before" in text and "43.3% after" in text  # 33,000 / 69,500; 5,345 / 12,345
    assert "0.300 [0.270, 0.330]" in text
    assert "\u22120.080 [\u22120.110, \u22120.050] better than random" in text
    for chart in data.histograms:
        for kept, dropped in zip(chart.kept, chart.dropped, strict=True):
            assert f"{integer(kept)} {integer(dropped)}" in text


def test_bars_are_as_tall_as_their_shares() -> None:
    chart = Histogram("x", [0, 1, 2], [30, 10], [5, 5], 0.5, 1.0)
    data = dataclasses.replace(pages.full(), histograms=[chart], compared=[])
    html = render(data)
    heights = [float(h) for h in re.findall(r'<rect [^>]*height="([\d.]+)"', html)]
    shares = [0.5, 0.5, 0.75, 0.25]  # dropped first, then kept
    tallest = max(heights)
    assert [h / tallest for h in heights] == pytest.approx([s / 0.75 for s in shares], abs=2e-3)


def test_medians_stand_where_their_bin_is() -> None:
    chart = Histogram("x", [1, 10, 100, 1000], [1, 1, 1], [0, 0, 0], 55.0, None)
    html = render(dataclasses.replace(pages.full(), histograms=[chart], compared=[]))
    at = float(re.search(r'class="median kept" x1="([\d.]+)"', html)[1])
    # half of the second of three bins, on 320 wide paper with 4 on either side
    assert at == pytest.approx(4 + 312 * (1 + 0.5) / 3, abs=0.1)


def test_what_is_the_same_everywhere_is_told_and_not_drawn() -> None:
    chart = Histogram("all_alike", [0, 1], [9], [9], 0.5, 0.5, constant=0.5)
    bare = dataclasses.replace(pages.full(), histograms=[chart], compared=[], differences={})
    page = outline(render(bare))
    assert "svg" not in {tag for tag, _ in page.tags}
    assert "The same in every row: all_alike 0.5" in " ".join("".join(page.text).split())


def test_verdict_tells_subset_difference_and_cost() -> None:
    told = sentence(pages.full())
    assert "deita kept 412 of 2,000 rows (20.6%), 12,345 tokens: against random rows" in told
    assert "held-out NLL is better by 0.080 [0.050, 0.110] and no difference shown in" in told
    assert told.endswith("in exact match; the run took 1 min 36 s.")
    assert told.count(". ") == 0  # one sentence
    assert aside(pages.full()) == (
        "Against the untuned model, held-out NLL is better by 0.310 [0.250, 0.370] and no "
        "difference shown in exact match."
    )
    assert aside(dataclasses.replace(pages.full(), gains={})) == ""
    reused = [Stage("tune", 2, 0, 0.25), Stage("report", 0, 1, 1.0)]
    told = sentence(dataclasses.replace(pages.full(), stages=reused))
    assert "an earlier one had computed everything" in told


@pytest.mark.parametrize(
    ("metric", "interval", "expected"),
    [
        ("nll", Interval(-0.1, -0.2, -0.05), "better than random"),
        ("nll", Interval(0.1, 0.05, 0.2), "worse than random"),
        ("exact_match", Interval(0.1, 0.05, 0.2), "better than random"),
        ("exact_match", Interval(-0.1, -0.2, -0.05), "worse than random"),
        ("nll", Interval(-0.1, -0.2, 0.0), "no difference shown"),
        ("exact_match", Interval(0.1, -0.01, 0.2), "no difference shown"),
        ("something_else", Interval(0.1, 0.05, 0.2), "a difference is shown"),
    ],
)
def test_differences_are_judged_by_their_interval(
    metric: str, interval: Interval, expected: str
) -> None:
    assert judged(metric, interval) == expected


def test_a_run_without_selection_has_a_page() -> None:
    data = ReportData("r", "id", "now", "", {"ingested": 3, "rejected": 0})
    page = outline(render(data))
    assert "Nothing was selected" in "".join(page.text)
    assert not {"svg", "table"} & {tag for tag, _ in page.tags}


def test_bounds_do_not_read_as_nothing() -> None:
    shown = {
        (-0.008, -0.017, -0.0004): "\u22120.0080 [\u22120.0170, \u22120.0004]",
        (0.00001, 0.0, 0.00002): "+0.00001 [0.00000, +0.00002]",
        (0.0, -0.1, 0.1): "0.000 [\u22120.100, +0.100]",
    }
    told = {given: interval(Interval(*given), signed=True) for given in shown}
    assert {
        g: t.replace("+0.00000", "0.00000").replace("+0.000 ", "0.000 ") for g, t in told.items()
    } == shown


def test_durations() -> None:
    assert [duration(s) for s in (0.25, 59.9, 61, 3723)] == [
        "0.2 s",
        "59.9 s",
        "1 min 1 s",
        "1 h 2 min",
    ]


def test_failed_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write(pages.full(), tmp_path / "r.html")
    assert list(tmp_path.iterdir()) == []


def _browser() -> str:
    found = next(
        (b for b in ("chromium", "chromium-browser", "google-chrome") if shutil.which(b)), ""
    )
    if not found:
        pytest.skip("no chromium on this machine: the page was not opened in a browser")
    return found


@pytest.mark.parametrize("data", [pages.full(), everywhere_evil()], ids=["full", "hostile"])
def test_browser_opens_the_page_without_errors(data: ReportData, tmp_path: Path) -> None:
    path = write(data, tmp_path / "report.html")
    done = subprocess.run(
        [
            _browser(),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--enable-logging=stderr",
            "--window-size=390,800",
            "--dump-dom",
            path.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    messages = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert messages == []
    assert done.stdout.count('class="row kept"') == 20
    decisive = set(data.differences) & set(DECISIVE)
    assert done.stdout.count("<svg") == 5 + 2 + len(decisive)


def test_refined_rows_and_what_is_new_are_told() -> None:
    text = "".join(outline(render(pages.full())).text)
    for told in ("12 clear correct: replaced", "It is 5.", "It is 4.", "better by 0.31"):
        assert told in text
    for told in ("2 of 3 texts", "Why is it not so?", "probably made up", "the base forgets"):
        assert told in text
    assert "40" in text[text.index("They lie in") :][:20]
    bare = dataclasses.replace(pages.full(), refined={}, changed=[], news=None)
    assert "Refined answers" not in render(bare) and "What is new" not in render(bare)


def test_numbers_have_no_exponent_where_people_read_none() -> None:
    shown = {0.0: "0", 0.00678: "0.00678", 1234.56: "1235", 24355.0: "24,355"}
    shown |= {-24355.4: "\u221224,355", 0.0000678: "6.78e\u221205", 2e6: "2.00e+06"}
    assert {value: decimal(value) for value in shown} == shown


def test_the_ends_of_axes_are_told_in_full() -> None:
    line = Line("gain", [1.0, 500.5, 976.0], [0.2, 0.01, 0.0000678])
    drawn = str(lines(Curve("Gain", "pick", [line])))
    labels = re.findall(r'<text class="label" x="([^"]+)"[^>]*text-anchor="(\w+)">([^<]*)<', drawn)
    assert [text for _, _, text in labels][:4] == ["1", "976", "6.78e\u221205", "0.2"]
    # A label that ends at the axis begins within the drawing: about 7 units a letter.
    assert all(float(x) - 7 * len(text) >= 0 for x, anchor, text in labels if anchor == "end")


_WIDE = """() => [...document.querySelectorAll("body *")]
  .filter((e) => !e.closest(".scroll, .skip, h2.quiet, details:not([open])"))
  .filter((e) => e.getBoundingClientRect().right > innerWidth + 0.5)
  .map((e) => `${e.tagName}.${e.className} ${e.getBoundingClientRect().right}`)"""
# Of every text its contrast with what lies below it, by WCAG 2.1.
_FAINT = """() => {
  const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const parse = (text) => {
    const n = text.match(/[\\d.]+(e-?\\d+)?/g).map(Number);
    const scale = text.startsWith("rgb") ? 255 : 1;
    return [n[0] / scale, n[1] / scale, n[2] / scale, n[3] ?? 1];
  };
  const over = (top, below) => top.slice(0, 3).map((c, i) => c * top[3] + below[i] * (1 - top[3]));
  const ground = (e) => {
    if (!e) return [1, 1, 1];
    const own = parse(getComputedStyle(e).backgroundColor);
    return own[3] === 1 ? own : over(own, ground(e.parentElement));
  };
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement;
    if (!walk.currentNode.textContent.trim() || !e.getClientRects().length) continue;
    if (e.closest(".skip, h2.quiet, script, :disabled, option")) continue;
    const style = getComputedStyle(e);
    const ink = parse(e.closest("svg") ? style.fill : style.color);
    const below = ground(e);
    const [a, b] = [light(over(ink, below)), light(below)].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) found.push(`${e.tagName}.${e.className} ${style.color}`);
  }
  return found;
}"""


def long_names() -> ReportData:
    """The full page with words in it that no line can hold."""

    def lengthen(value: object) -> object:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {f.name: lengthen(getattr(value, f.name)) for f in dataclasses.fields(value)}
            return type(value)(**fields)
        if isinstance(value, str):
            return f"{value}{'W' * 90}"
        if isinstance(value, dict):
            decided = set(DECISIVE) & value.keys()
            return {k if k in decided else lengthen(k): lengthen(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(lengthen(v) for v in value)
        return value

    made = lengthen(pages.full())
    assert isinstance(made, ReportData)
    return made


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    path = _browser()
    with playwright.sync_playwright() as running:
        yield running.chromium.launch(executable_path=shutil.which(path), args=["--no-sandbox"])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_window_shows_all_of_it(browser: Any, tmp_path: Path, scheme: str) -> None:
    for name, data in (("full", pages.full()), ("long", long_names())):
        path = write(data, tmp_path / f"{name}.html")
        shown = browser.new_page(viewport={"width": 360, "height": 800}, color_scheme=scheme)
        shown.goto(path.as_uri())
        assert shown.evaluate("document.documentElement.scrollWidth") == 360
        assert shown.evaluate(_WIDE) == []
        assert shown.evaluate(_FAINT) == []
        heights = shown.eval_on_selector_all(
            ".chart text", "es => es.map((e) => e.getBoundingClientRect().height)"
        )
        assert min(heights) > 10  # letters of drawings can be read
        shown.close()


def test_the_measure_of_contrast_sees_faint_text(browser: Any) -> None:
    shown = browser.new_page()
    shown.set_content(
        "<p style='color: #888'>faint</p><p style='color: #222'>plain</p>"
        "<p style='color: #fff; background: color-mix(in srgb, #000 30%, transparent)'>mixed</p>"
    )
    assert [told.split()[0] for told in shown.evaluate(_FAINT)] == ["P.", "P."]
    shown.close()
