"""The sentence a decision is made by."""

from __future__ import annotations

from tamis.report import methods
from tamis.report.data import ReportData
from tamis.report.numbers import duration, integer, interval
from tamis.report.parts import Interval

# Which way is better, and what the figure is called.
METRICS = {
    "nll": ("held-out NLL", "lower"),
    "exact_match": ("exact match", "higher"),
    "token_accuracy": ("token accuracy", "higher"),
}
# The ones a decision is made by.
DECISIVE = ("nll", "exact_match")


def sentence(data: ReportData) -> str:
    """Which subset, how it differs from a random one of equal cost, and what that took: one
    sentence."""
    if data.methods is not None:
        return methods.sentence(data.methods, label(data.methods.metric))
    kept, pool = data.counts.get("selected"), data.counts.get("ingested")
    if kept is None or not pool:
        return "Nothing was selected in this run: the page shows what was ingested and scored."
    share = f"{kept / pool:.1%}".replace(".0%", "%")
    chosen = f"{data.method} kept {integer(kept)} of {integer(pool)} rows ({share})"
    tokens = data.counts.get("tokens selected")
    if tokens is not None:
        chosen += f", {integer(tokens)} tokens"
    return f"{chosen}: {_against_random(data)}{_cost(data)}."


def aside(data: ReportData) -> str:
    """What else a decision needs: how the tuned model differs from the untuned one; or nothing."""
    if data.methods is not None:
        return methods.aside(data.methods, label(data.methods.metric))
    told = [_told(m, value) for m, value in data.gains.items() if m in DECISIVE]
    return f"Against the untuned model, {' and '.join(told)}." if told else ""


def _cost(data: ReportData) -> str:
    if not data.stages:
        return ""
    took = duration(sum(stage.seconds for stage in data.stages))
    if any(stage.computed for stage in data.stages if stage.name != "report"):
        return f"; the run took {took}"
    return f"; this run took {took}, as an earlier one had computed everything"


def judged(metric: str, difference: Interval) -> str:
    """What the interval of a difference says: better, worse, or no difference shown."""
    if not difference.shows_difference:
        return methods.NO_DIFFERENCE
    if metric not in METRICS:
        return "a difference is shown"
    better = (difference.value > 0) == (METRICS[metric][1] == "higher")
    return "better than random" if better else "worse than random"


def label(metric: str) -> str:
    """What a metric is called on the page."""
    return METRICS.get(metric, (metric.replace("_", " "), ""))[0]


def _against_random(data: ReportData) -> str:
    if not data.differences:
        return "it was not held against a random subset"
    told = [_told(m, value) for m, value in data.differences.items() if m in DECISIVE]
    return f"against random rows of equal token budget, {' and '.join(told)}"


def _told(metric: str, difference: Interval) -> str:
    if not difference.shows_difference:
        return f"{methods.NO_DIFFERENCE} in {label(metric)}"
    better = judged(metric, difference).split()[0]
    ends = sorted((abs(difference.low), abs(difference.high)))
    spelt = interval(Interval(abs(difference.value), *ends))
    return f"{label(metric)} is {better} by {spelt}"
