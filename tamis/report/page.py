"""The page: Jinja templates with autoescape on, style and script inside, and no network.

The one script draws the map. The content security policy names it by its hash, so no other script
runs on the page, whatever a text of the data holds.
"""

from __future__ import annotations

import base64
import hashlib
import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from tamis.report import charts, lines, methods, numbers, points, verdict
from tamis.report.data import ReportData
from tamis.report.parts import Interval
from tamis.report.stack import stack
from tamis.report.text import shown

if TYPE_CHECKING:
    from jinja2 import Template

_FOLDER = Path(__file__).parent


def write(data: ReportData, path: str | Path) -> Path:
    """Write the page of `data` to `path`, whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(render(data), encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def render(data: ReportData) -> str:
    """The page as text. Every text of the data is escaped; control characters become visible."""
    script = _script()
    stacks = (stack("Sources", data.composition), stack("Languages", data.languages))
    return _template().render(
        data=data,
        style=(_FOLDER / "style.css").read_text(encoding="utf-8"),
        script=script,
        script_hash=f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}",
        sentence=verdict.sentence(data),
        aside=verdict.aside(data),
        contents=_contents(data),
        stacks=[bars for bars in stacks if bars is not None],
        metrics=_metrics(data),
        sides=_sides(data),
    )


@cache
def _script() -> str:
    """The files of the map's script as one, with names of its own."""
    files = sorted((_FOLDER / "map").glob("*.js"))
    parts = [file.read_text(encoding="utf-8") for file in files]
    return '(() => {\n"use strict";\n' + "\n".join(parts) + "})();\n"


@cache
def _template() -> Template:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "integer": numbers.integer,
        "decimal": numbers.decimal,
        "interval": numbers.interval,
        "share": numbers.share,
        "duration": numbers.duration,
        "text": shown,
    }
    environment.globals |= {
        "charts": lines.figures,
        "count_of": methods.count,
        "decisive": verdict.DECISIVE,
        "difference": charts.difference,
        "forest": methods.forest,
        "histogram": charts.histogram,
        "intervals": charts.intervals,
        "judged": verdict.judged,
        "map_block": points.block,
        "mean_of": methods.mean,
        "metric_label": verdict.label,
        "seconds_of": methods.seconds,
    }
    return environment.get_template("page.html.jinja")


def _contents(data: ReportData) -> list[tuple[str, str]]:
    """The sections that are there: anchor and name, in their order."""
    every: list[tuple[object, str, str]] = [
        (data.methods, "methods", "Methods compared"),
        (True, "run", "Run"),
        (data.composition, "composition", "Sources"),
        (data.languages, "languages", "Languages"),
        (data.compared, "comparison", "Comparison"),
        (data.kept or data.dropped, "rows", "Rows"),
        (data.rejected, "rejected", "Rejected"),
        (data.histograms, "signals", "Signals"),
        (data.map, "map", "Map"),
        (data.duplicates, "duplicates", "Duplicates"),
        (data.coverage, "coverage", "Coverage"),
        (data.curves, "curves", "Curves"),
        (data.training, "training", "Training"),
        (data.refined, "refined", "Refined"),
        (data.news, "news", "What is new"),
        (data.absent, "absent", "Not computed"),
    ]
    return [(anchor, name) for there, anchor, name in every if there]


def _metrics(data: ReportData) -> list[tuple[str, list[tuple[str, Interval]]]]:
    """For each metric the lines that have it: name of the subset and interval."""
    names = dict.fromkeys(name for line in data.compared for name in line.metrics)
    return [
        (name, [(line.name, line.metrics[name]) for line in data.compared if name in line.metrics])
        for name in names
    ]


def _sides(data: ReportData) -> list[tuple[str, str, object]]:
    sides = (("kept", "Kept", data.kept), ("dropped", "Dropped", data.dropped))
    return [side for side in sides if side[2]]
