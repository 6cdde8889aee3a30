"""The comparison of methods that a run made, for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tamis import report as page
from tamis.pipelines.comparing import told
from tamis.pipelines.reporting.subject import Subject
from tamis.storage import files

KIND, DOCUMENT = "comparisons", "comparison.json"
# Figures that stand beside the one that decides.
_OTHERS = ("nll", "exact_match")
# A line is not drawn where it is so many times the middle half of all points away.
_FAR = 5.0


def methods(subject: Subject) -> page.Methods | None:
    """What `tamis compare` found in this run; None for another run."""
    keys = {n: k for stage in subject.run["stages"] for n, k in stage["keys"].items()}
    found = subject.store.store.find(KIND, keys.get("comparison", ""))
    if "comparison" not in keys or found is None:
        return None
    document = files.read_json(found.path / DOCUMENT)
    metric = document["metric"]
    lines = told.ordered(document)
    there = [n for n in _OTHERS if n != metric and n in lines[0]["figures"]]
    return page.Methods(
        metric,
        document["better"],
        len(document["seeds"]),
        document["level_each"],
        "seed and evaluation row" if document["heldout_rows"] else "seed",
        [_line(line, metric, there) for line in lines],
        [_winner(one) for one in document["winners"]],
        told.warnings(document),
        [_curve(document, lines, name) for name in (metric, *there)],
        [_overlap(one) for one in document["overlap"]],
        (document["untuned"] or {}).get(metric),
        there,
    )


def _line(line: Mapping[str, Any], metric: str, others: Sequence[str]) -> page.Contest:
    figure = line["figures"][metric]
    minus = figure.get("minus_random")
    return page.Contest(
        line["method"],
        line["kind"],
        _budget(line),
        figure["mean"],
        figure["spread"],
        _interval(minus),
        "" if minus is None else minus["verdict"],
        {name: line["figures"][name]["mean"] for name in others},
        line["rows"],
        line["tokens"],
        line["steps"],
        line["seconds"]["select"],
        line["seconds"]["tune"],
    )


def _winner(found: Mapping[str, Any]) -> page.Winner:
    minus, second, untuned = (found[f"minus_{x}"] for x in ("random", "second", "untuned"))
    return page.Winner(
        told.budget(found["budget"]),
        found["method"],
        found["mean"],
        found["named_on"],
        found["reported_on"],
        _interval(minus),
        "" if minus is None else minus["verdict"],
        found["second"],
        _interval(second),
        second["verdict"],
        found["untuned"],
        _interval(untuned),
        "" if untuned is None else untuned["verdict"],
    )


def _curve(
    document: Mapping[str, Any], lines: Sequence[Mapping[str, Any]], metric: str
) -> page.Curve:
    """One line a method over the tokens of its subsets; all rows as a level to compare with."""
    some = [line for line in lines if line["budget"] is not None]
    unit = "tokens" if all(line["tokens"] is not None for line in some) else "rows"
    names = dict.fromkeys(line["method"] for line in document["lines"] if line["budget"])
    drawn = []
    for name in names:
        mine = sorted((x for x in some if x["method"] == name), key=lambda x: x["budget"]["size"])
        figures = [line["figures"][metric] for line in mine]
        drawn.append(
            page.Line(
                name,
                [line[unit] for line in mine],
                [figure["mean"] for figure in figures],
                spread=[figure["spread"] or 0.0 for figure in figures],
            )
        )
    ends = [min(line[unit] for line in some), max(line[unit] for line in some)]
    levels = {"all rows": _mean(lines, metric), "untuned": (document["untuned"] or {}).get(metric)}
    for name, level in levels.items():
        if level is not None and ends[0] < ends[1]:
            drawn.append(page.Line(name, ends, [level, level]))
    title = page.label(metric)
    near, far = _near(drawn)
    told = f"Too far away to be drawn: {', '.join(map(_reach, far))}." if far else ""
    return page.Curve(title[0].upper() + title[1:], f"{unit} selected", near, told)


def _near(lines: Sequence[page.Line]) -> tuple[list[page.Line], list[page.Line]]:
    """The lines that leave the others readable, and those so far away that they would not."""
    values = np.array([y for line in lines for y in line.y])
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    reach = _FAR * (high - low)
    near = [x for x in lines if max(abs(y - middle) for y in x.y) <= reach or not reach]
    return near, [line for line in lines if line not in near]


def _reach(line: page.Line) -> str:
    return f"{line.name} ({min(line.y):.3f} to {max(line.y):.3f})"


def _mean(lines: Sequence[Mapping[str, Any]], metric: str) -> float | None:
    full = [line for line in lines if line["budget"] is None]
    return full[0]["figures"][metric]["mean"] if full else None


def _overlap(found: Mapping[str, Any]) -> page.Overlap:
    return page.Overlap(told.budget(found["budget"]), found["methods"], found["jaccard"])


def _budget(line: Mapping[str, Any]) -> str:
    return "all rows" if line["budget"] is None else told.budget(line["budget"])


def _interval(found: Mapping[str, Any] | None) -> page.Interval | None:
    """A difference; None where there is none, or where one seed alone gives no bounds."""
    if found is None or found["low"] is None:
        return None
    return page.Interval(found["value"], found["low"], found["high"])
