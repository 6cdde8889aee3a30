"""The comparison: many methods at equal budgets and several seeds, on the same held-out rows."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tamis.errors import DataError
from tamis.language.tally import counted
from tamis.pipelines import evaluate as evaluation
from tamis.pipelines import heldout, opened, runlog
from tamis.pipelines.comparing import check, leakage, spoilers, table
from tamis.pipelines.comparing.cells import Cell, cells, needed, recipe_of
from tamis.pipelines.comparing.overlap import overlap
from tamis.pipelines.comparing.work import Done, run_cells
from tamis.pipelines.context import Context, Outcome
from tamis.pipelines.run import described
from tamis.pipelines.select import TOKENS
from tamis.pipelines.stages import STAGES
from tamis.recipe import Recipe
from tamis.storage import files
from tamis.storage.artifact import Artifact, Maker

KIND = "comparisons"
DOCUMENT = "comparison.json"
# Raise by hand when the same cells give another document.
VERSION = 2


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a comparison found: its run, how many cells were computed and how many were there, the
    document, and the report page."""

    store: Path
    run_id: str
    computed: int
    reused: int
    document: Mapping[str, Any]
    report: str | None


def compare(ctx: Context, *, jobs: int | None = None) -> Comparison:
    """Run every cell of the recipe's block compare, and hold the methods against random rows.

    Everything that can be checked is checked first. Cells are artefacts of the store: what an
    earlier comparison has made, killed or whole, is reused. Raises `TamisError`.
    """
    asked = replace(ctx, recipe=check.checked(ctx))
    log = runlog.begin(ctx)
    outcomes: list[Outcome] = []

    def did(outcome: Outcome) -> None:
        outcomes.append(outcome)
        ctx.say(described(outcome))
        runlog.update(ctx, log, outcomes, "running")

    try:
        keys: dict[str, str] = {}
        for name in ("ingest", "score", *(["refine"] if ctx.recipe.refine is not None else [])):
            with counted() as read:
                outcome = STAGES[name](_plain(asked), _without_target(keys))
            did(replace(outcome, read=read))
            keys |= outcomes[-1].keys
        keys |= _scored_targets(asked, keys)
        with counted() as read:
            outcome, document = _compared(asked, keys, jobs or needed(ctx.recipe).jobs)
        did(replace(outcome, read=read))
        did(STAGES["report"](ctx, {**keys, **outcome.keys}))
    except BaseException:
        runlog.update(ctx, log, outcomes, "failed")
        raise
    runlog.update(ctx, log, outcomes, "complete")
    page = outcomes[-1].facts.get("path")
    return Comparison(ctx.store.root, log.run_id, outcome.computed, outcome.reused, document, page)


def _plain(ctx: Context) -> Context:
    """The recipe without a method: what all cells share is ingested and scored by it."""
    return replace(ctx, recipe=ctx.recipe.model_copy(update={"select": None}))


def _without_target(keys: Mapping[str, str]) -> dict[str, str]:
    return {name: key for name, key in keys.items() if name != "target"}


def _scored_targets(ctx: Context, keys: Mapping[str, str]) -> dict[str, str]:
    """The signals of the target by which methods compare rows; those of the pool are there."""
    made: dict[str, str] = {}
    if ctx.recipe.target is not None:
        first = {cell.method: cell for cell in reversed(cells(ctx.recipe))}
        for cell in first.values():
            own = recipe_of(ctx.recipe, cell)
            if own.target is not None:
                made |= STAGES["score"](replace(ctx, recipe=own), keys).keys
    return made


def _compared(
    ctx: Context, keys: Mapping[str, str], jobs: int
) -> tuple[Outcome, Mapping[str, Any]]:
    start = time.monotonic()
    ctx = replace(ctx, recipe=listed(ctx, keys))
    done = run_cells(ctx, keys, cells(ctx.recipe), jobs)
    untuned = _untuned(ctx, keys)
    artifact, _ = _written(ctx, done, untuned, _leaks(ctx, keys))
    document = files.read_json(artifact.path / DOCUMENT)
    computed = sum(one.computed for one in done)
    seconds = time.monotonic() - start
    made = {"comparison": artifact.key, **_shown(document, done)}
    return Outcome("compare", made, len(done) - computed, computed, seconds), document


def listed(ctx: Context, keys: Mapping[str, str]) -> Recipe:
    """The recipe with lists of ids cut to rows that can be trained on.

    Who made a list elsewhere could not know which rows are held out here. Raises `DataError` for
    values that no row has.
    """
    recipe = ctx.recipe
    methods = dict(needed(recipe).methods)
    for name, given in methods.items():
        if given.ids is None:
            continue
        columns = opened.columns(ctx, keys)
        values = [str(value) for value in columns.values(given.by).tolist()]
        known = set(values)
        unknown = [one for one in given.ids if one not in known]
        if unknown:
            raise DataError(
                f"compare.methods.{name}.ids: {len(unknown)} of {len(given.ids)} are no {given.by} "
                f"of the pool, the first is {unknown[0]!r}"
            )
        usable = ~heldout.mask(recipe, columns) & (columns.values(f"{TOKENS}.supervised") > 0)
        there = {value for value, use in zip(values, usable.tolist(), strict=True) if use}
        kept = [one for one in given.ids if one in there]
        if len(kept) < len(given.ids):
            left = len(given.ids) - len(kept)
            ctx.say(f"{name}: {left} of {len(given.ids)} ids are held out or cannot be trained on")
        methods[name] = given.model_copy(update={"ids": kept})
    return check.with_methods(recipe, methods)


def _untuned(ctx: Context, keys: Mapping[str, str]) -> Artifact | None:
    """The evaluation of the model before any tuning, where the recipe tells which that is."""
    tune = ctx.recipe.tune
    if tune is None or tune.command is not None:
        return None
    held = opened.heldout_rows(ctx, keys, opened.columns(ctx, keys))
    return evaluation.evaluate(ctx, None, held, title="evaluate the untuned model")[0]


def _leaks(ctx: Context, keys: Mapping[str, str]) -> Artifact | None:
    """The rows of the pool that are like held-out rows."""
    columns = opened.columns(ctx, keys)
    held = opened.heldout_rows(ctx, keys, columns)
    if held is None or ctx.recipe.evaluate is None:
        return None
    held = evaluation.within(ctx.recipe.evaluate, held)
    return leakage.leaks(ctx, keys, columns, held, heldout.mask(ctx.recipe, columns))


def _written(
    ctx: Context, done: Sequence[Done], untuned: Artifact | None, leaks: Artifact | None
) -> tuple[Artifact, bool]:
    metric, better = check.decisive(ctx.recipe)
    inputs = {
        "version": VERSION,
        "cells": [[str(one.cell), dict(one.keys)] for one in done],
        "untuned": untuned and untuned.key,
        "leaks": leaks and leaks.key,
        "metric": [metric, better],
        "seed": ctx.recipe.seed,
        "bootstrap": ctx.recipe.evaluate and ctx.recipe.evaluate.bootstrap,
    }

    def make(maker: Maker) -> Mapping[str, Any]:
        lines = table.lines(ctx, done)
        told = table.document(ctx, lines, untuned)
        told["overlap"] = overlap(ctx, lines)
        told["leakage"] = None if leaks is None else leakage.counted(ctx, leaks, lines)
        told["warnings"] = spoilers.spoilers(ctx.recipe, told)
        maker.write_json(DOCUMENT, told)
        return {"cells": len(done), "winners": told["winners"]}

    return ctx.store.ensure(KIND, inputs, make, say=ctx.say)


def _shown(document: Mapping[str, Any], done: Sequence[Done]) -> dict[str, str]:
    """What the report shows rows of: the winner at the largest budget beside random rows, both of
    the first seed."""
    winner = max(document["winners"], key=lambda w: w["budget"]["size"])

    def cell(method: str) -> Done:
        return next(one for one in done if _is(one.cell, method, winner["budget"]["size"]))

    shown = {"chosen": cell(winner["method"]), "baseline": cell("random")}
    return {
        f"{subset}/{step}": key for subset, one in shown.items() for step, key in one.keys.items()
    }


def _is(cell: Cell, method: str, size: int) -> bool:
    return cell.method == method and cell.budget is not None and cell.budget.limit == size
