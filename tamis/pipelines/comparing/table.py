"""The outcome of a comparison as one document: lines, winners, overlap and warnings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tamis.errors import TamisError
from tamis.numerics.bootstrap import Interval
from tamis.pipelines.comparing import figures
from tamis.pipelines.comparing.cells import FULL, RANDOM, budget_of
from tamis.pipelines.comparing.check import BETTER, decisive
from tamis.pipelines.comparing.figures import Measured
from tamis.pipelines.comparing.work import Done
from tamis.pipelines.context import Context
from tamis.recipe import BASELINES, Budget
from tamis.storage.artifact import Artifact

# How sure all intervals of a table are together, and an interval that stands alone is.
SURE = 0.95


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table: a method at a budget (None: the full pool), its cells by seed, and
    what they measured."""

    method: str
    budget: Budget | None
    cells: Sequence[Done]
    found: Measured

    @property
    def kind(self) -> str:
        """contestant, baseline, or reference: what trains on all rows cannot win."""
        if self.method == FULL:
            return "reference"
        return "baseline" if self.method in BASELINES else "contestant"


def lines(ctx: Context, done: Sequence[Done]) -> list[Line]:
    """The cells by method and budget, seeds in their order."""
    grouped: dict[tuple[str, str], list[Done]] = {}
    for one in done:
        grouped.setdefault((one.cell.method, repr(one.cell.budget)), []).append(one)
    made = []
    for cells in grouped.values():
        evaluations = [ctx.store.get("evaluations", d.keys["evaluation"]) for d in cells]
        first = cells[0].cell
        made.append(Line(first.method, first.budget, cells, figures.measured(evaluations)))
    return made


def document(ctx: Context, given: Sequence[Line], untuned: Artifact | None) -> dict[str, Any]:
    """Lines with their figures and differences from random, and the winner of each budget.

    Raises `TamisError` if a command did not write the metric that decides.
    """
    metric, better = decisive(ctx.recipe)
    for line in given:
        if metric not in line.found.terms:
            wrote = ", ".join(line.found.terms)
            raise TamisError(
                f"compare.metric {metric!r} is none of the figures of {line.method}: expected one "
                f"of {wrote}"
            )
    random = {repr(line.budget): line for line in given if line.method == RANDOM}
    budgets = [line.budget for line in random.values()]
    # The full pool has no budget: it is held against random rows of the largest one.
    against = {**random, repr(None): random[repr(_largest(budgets))]}
    compared = [line for line in given if line.method != RANDOM]
    level = 1 - (1 - SURE) / max(1, len(compared))
    judge = _Judge(ctx, metric, better)
    return {
        "metric": metric,
        "better": better,
        "seeds": [done.cell.seed for done in given[0].cells],
        "heldout_rows": len(given[0].found.ids) or None,
        "comparisons": len(compared),
        "level_each": level,
        "lines": [_line(ctx, line, against[repr(line.budget)], judge, level) for line in given],
        "untuned": None if untuned is None else _alone(untuned),
        "winners": [
            _winner([line for line in given if repr(line.budget) == repr(b)], judge, untuned)
            for b in budgets
        ],
        "cells": [
            {
                "method": done.cell.method,
                "budget": budget_of(done.cell.budget),
                "seed": done.cell.seed,
                **done.keys,
            }
            for line in given
            for done in line.cells
        ],
    }


@dataclass(frozen=True, slots=True)
class _Judge:
    """Takes differences as the recipe says."""

    ctx: Context
    metric: str
    better: str

    def against(
        self, a: Line, b: Line, metric: str, level: float, rows: np.ndarray | None = None
    ) -> dict[str, Any]:
        """A minus B with its interval and, for a metric whose better side is known, a verdict."""
        evaluate = self.ctx.recipe.evaluate
        found = figures.difference(
            a.found,
            b.found,
            metric,
            level=level,
            seed=self.ctx.recipe.seed,
            resamples=1000 if evaluate is None else evaluate.bootstrap,
            rows=rows,
        )
        better = self.better if metric == self.metric else BETTER.get(metric)
        told = {"verdict": figures.verdict(found, better, b.method)} if better else {}
        return {**_interval(found), **told}

    def best(self, given: Sequence[Line], rows: np.ndarray | None) -> list[Line]:
        """The lines, the best first by the mean over seeds."""
        sign = -1 if self.better == "higher" else 1
        return sorted(given, key=lambda x: sign * float(x.found.each(self.metric, rows).mean()))


def _line(ctx: Context, line: Line, random: Line, judge: _Judge, level: float) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for metric in line.found.terms:
        each = line.found.each(metric)
        told[metric] = {
            "mean": float(each.mean()),
            "spread": float(each.std(ddof=1)) if len(each) > 1 else None,
            "each": each.tolist(),
        }
        if line.method != RANDOM and metric in random.found.terms:
            told[metric]["minus_random"] = judge.against(line, random, metric, level)
    return {
        "method": line.method,
        "kind": line.kind,
        "budget": budget_of(line.budget),
        **_costs(ctx, line),
        "figures": told,
    }


def _costs(ctx: Context, line: Line) -> dict[str, Any]:
    """Means over seeds of what was selected and trained on, and of the seconds this took when it
    was computed; None where a command does not tell."""
    selections = [ctx.store.get("selections", d.keys["selection"]).facts for d in line.cells]
    models = [ctx.store.get("models", d.keys["model"]).facts for d in line.cells]
    return {
        "rows": _mean(selections, "rows_shown"),
        "tokens": _mean(selections, "total_tokens"),
        "steps": _mean(models, "steps"),
        "tokens_trained": _mean(models, "tokens_seen"),
        "seconds": {"select": _mean(selections, "seconds"), "tune": _mean(models, "seconds")},
    }


def _winner(given: Sequence[Line], judge: _Judge, untuned: Artifact | None) -> dict[str, Any]:
    """The best line by one half of the evaluation rows, and what it is worth on the other."""
    random = next(line for line in given if line.method == RANDOM)
    ids, groups = random.found.ids, random.found.groups
    named = figures.halves(ids, groups) if len(ids) > 1 else None
    rest = None if named is None else ~named
    first, second = judge.best(given, named)[:2]
    each = first.found.each(judge.metric, rest)
    base = None if untuned is None else _everywhere(untuned, first)
    return {
        "budget": budget_of(first.budget),
        "method": first.method,
        "named_on": None if named is None else int(named.sum()),
        "reported_on": None if rest is None else int(rest.sum()),
        "mean": float(each.mean()),
        "minus_random": None
        if first is random
        else judge.against(first, random, judge.metric, SURE, rest),
        "second": second.method,
        "minus_second": judge.against(first, second, judge.metric, SURE, rest),
        "untuned": None if base is None else float(base.found.each(judge.metric, rest)[0]),
        "minus_untuned": None
        if base is None
        else judge.against(first, base, judge.metric, SURE, rest),
    }


def _everywhere(untuned: Artifact, like: Line) -> Line:
    """The untuned model as a line with the seeds of another: it is the same with each."""
    found = figures.measured([untuned] * len(like.cells))
    return Line("the untuned model", like.budget, like.cells, found)


def _alone(evaluation: Artifact) -> dict[str, Any]:
    """The figures of the untuned model."""
    found = figures.measured([evaluation])
    return {metric: float(found.each(metric)[0]) for metric in found.terms}


def _largest(budgets: Sequence[Budget | None]) -> Budget | None:
    return max(budgets, key=lambda b: 0.0 if b is None else b.limit)


def _mean(facts: Sequence[Mapping[str, Any]], name: str) -> float | None:
    values = [one[name] for one in facts if one.get(name) is not None]
    return float(np.mean(values)) if len(values) == len(facts) else None


def _interval(found: Interval) -> dict[str, float | None]:
    """An interval as JSON: bounds that are infinite are None."""
    value, low, high = found
    bounds = {name: x if math.isfinite(x) else None for name, x in (("low", low), ("high", high))}
    return {"value": value, **bounds}
