"""What the subsets of a run gave: the evaluations and their difference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tamis import report as page
from tamis.pipelines import evaluate as evaluation
from tamis.pipelines.reporting.subject import Subject

FIGURES = ("nll", "exact_match", "token_accuracy")
# What the subsets of a run are called on the page.
NAMES = {"untuned": "untuned model", "chosen": "selected rows", "baseline": "random rows"}


def compared(subject: Subject) -> list[page.Compared]:
    """The untuned model first, then the subsets, with what each cost."""
    metrics = subject.run["metrics"] or {}
    selections = {"chosen": subject.run["selection"], "baseline": subject.run["baseline"]}
    lines = []
    for name, title in NAMES.items():
        figures = _intervals(metrics.get(name) or {})
        if figures:
            facts = selection_facts(subject, selections.get(name))
            rows, tokens = facts.get("kept"), facts.get("total_tokens")
            lines.append(page.Compared(title, rows, tokens, figures))
    return lines


def differences(subject: Subject) -> dict[str, page.Interval]:
    """Selected minus random, by metric."""
    return _intervals((subject.run["metrics"] or {}).get("difference") or {})


def gains(subject: Subject) -> dict[str, page.Interval]:
    """Selected minus untuned, by metric; none where the run did not evaluate both by rows."""
    keys = {n: k for stage in subject.run["stages"] for n, k in stage["keys"].items()}
    found = [
        subject.store.store.find("evaluations", keys.get(f"{name}/evaluation", ""))
        for name in ("chosen", "untuned")
    ]
    if found[0] is None or found[1] is None:
        return {}
    seed = int(subject.settings.get("seed") or 0)
    return _intervals(evaluation.difference(found[0], found[1], seed=seed))


def selection_facts(subject: Subject, key: str | None) -> dict[str, Any]:
    """What a selection says of itself; nothing without one."""
    found = subject.store.store.find("selections", key) if key else None
    return found.facts if found else {}


def _intervals(figures: Mapping[str, Any]) -> dict[str, page.Interval]:
    """The figures that are intervals, the decisive ones first; how often an answer came to its end
    is no measure of quality and is left out."""
    names = [n for n in FIGURES if n in figures] + [n for n in figures if n not in FIGURES]
    return {
        name: page.Interval(figures[name]["value"], figures[name]["low"], figures[name]["high"])
        for name in names
        if name != "stopped"
        and isinstance(figures[name], dict)
        and figures[name].keys() >= {"value", "low", "high"}
    }
