"""The cells of a comparison: which are there, and what the others cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tamis.pipelines import compare as comparing
from tamis.pipelines import export as exporting
from tamis.pipelines import opened
from tamis.pipelines.comparing.cells import Cell, cells, recipe_of
from tamis.pipelines.comparing.work import STEPS
from tamis.pipelines.forecast import subsets, training, values
from tamis.pipelines.forecast.figures import Work
from tamis.pipelines.forecast.state import State


def compare(state: State) -> None:
    """Count the cells; one piece of work a method and budget, over all seeds."""
    _targets(state)
    state.ctx = replace(state.ctx, recipe=comparing.listed(state.ctx, state.keys))
    by_line: dict[str, list[Work]] = {}
    for cell in cells(state.ctx.recipe):
        line = str(cell).rpartition(", seed ")[0]
        by_line.setdefault(line, []).append(_cell(state, cell))
    state.work += [_line(name, work) for name, work in by_line.items()]
    tune = state.ctx.recipe.tune
    if tune is not None and tune.command is None:
        held = opened.heldout_rows(state.ctx, state.keys, state.columns())
        assert held is not None
        work = training.evaluated(
            state.ctx, None, held, state.trials, what="(untuned)", exact=state.exact
        )
        work.stage, work.reused, work.computed = "compare", 0, 0  # it is no cell
        state.work.append(work)


def _targets(state: State) -> None:
    """The signals of the target by which methods compare rows: scored aside, and not counted."""
    first = {cell.method: cell for cell in reversed(cells(state.ctx.recipe))}
    for cell in first.values():
        own = recipe_of(state.ctx.recipe, cell)
        if own.target is not None:
            inner = _inside(state, cell)
            begun = len(inner.work)
            values.score(inner, "compare")
            for work in inner.work[begun:]:
                work.reused = work.computed = 0
            state.keys |= {n: k for n, k in inner.keys.items() if n.startswith("signals/")}


def _inside(state: State, cell: Cell) -> State:
    """The state within a cell: its recipe, and what all share."""
    own = recipe_of(state.ctx.recipe, cell)
    keys = {n: k for n, k in state.keys.items() if n != "target" or own.target is not None}
    return replace(state, ctx=replace(state.ctx, recipe=own), keys=keys)


def _cell(state: State, cell: Cell) -> Work:
    inner = _inside(state, cell)
    ctx, columns = inner.ctx, inner.columns()
    held = opened.heldout_rows(ctx, inner.keys, columns)
    assert held is not None
    made, selected = subsets.pick(inner)
    manifest, was = exporting.export(ctx, columns.pool, made, held, publish=False, suffix="")
    exact, trials = inner.exact, state.trials
    model, tuned = training.tuned(ctx, manifest, trials, stage="compare", what="", exact=exact)
    found = training.evaluated(ctx, model, held, trials, what="", exact=exact)
    reused = selected.reused + int(was and exact) + tuned.reused + found.reused
    there = reused == len(STEPS)
    total = _line(str(cell), [selected, tuned, found])
    return replace(total, reused=int(there), computed=int(not there), rows=manifest.facts["rows"])


def _line(what: str, work: Sequence[Work]) -> Work:
    """The sum of some work: times where any is known, and what each says of them once."""
    total = Work("compare", what, exact=all(w.exact for w in work))
    for one in work:
        total.reused += one.reused
        total.computed += one.computed
        total.rows += one.rows
        total.read.add(one.read)
        total.bytes += one.bytes
        total.tunings += one.tunings
        total.steps += one.steps
        if one.seconds is not None:
            total.seconds = (total.seconds or 0.0) + one.seconds
    said = [w.how for w in work if w.how and w.how != "done for the plan"]
    total.how = "; ".join(dict.fromkeys(said))
    return total
