"""The page: a Jinja template with autoescape on, the style inside, no script and no network."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from tamis.report import charts, numbers, verdict
from tamis.report.data import Interval, ReportData
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
    return _template().render(
        data=data,
        style=(_FOLDER / "style.css").read_text(encoding="utf-8"),
        sentence=verdict.sentence(data),
        metrics=_metrics(data),
        sides=_sides(data),
    )


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
        "histogram": charts.histogram,
        "intervals": charts.intervals,
        "judged": verdict.judged,
        "metric_label": verdict.label,
    }
    return environment.get_template("page.html.jinja")


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
