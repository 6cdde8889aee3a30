"""The subsets: found, made in the shadow store, or stood in for."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from tamis import selectors
from tamis.pipelines import export as exporting
from tamis.pipelines import heldout, opened, plan, stages
from tamis.pipelines import select as selecting
from tamis.pipelines.columns import Columns
from tamis.pipelines.forecast import scoring
from tamis.pipelines.forecast.figures import Work
from tamis.pipelines.forecast.shadow import made_bytes
from tamis.pipelines.forecast.state import State
from tamis.pipelines.rounds import Rounds
from tamis.recipe import Select
from tamis.storage.artifact import Artifact, key_of


def select(state: State) -> None:
    """Find or make the selection, or let random rows stand in for it; and its baseline."""
    ctx = state.ctx
    chosen, work = pick(state)
    _note(state, "chosen", chosen, work)
    if ctx.recipe.evaluate is not None and ctx.recipe.evaluate.baseline is not None:
        columns = state.columns()
        mask = heldout.mask(ctx.recipe, columns)
        made, old = selecting.select(ctx, columns, stages.alike(chosen), [], mask)
        _note(state, "baseline", made, _selected(state, made, old=old and state.exact))


def _note(state: State, subset: str, made: Artifact, work: Work) -> None:
    work.what = subset
    state.keys[f"{subset}/selection"] = made.key
    state.work.append(work)


def pick(state: State) -> tuple[Artifact, Work]:
    """The subset that the recipe's method picks, or what stands in for it, and the work of it."""
    ctx, columns = state.ctx, state.columns()
    choice, filters = ctx.recipe.select, ctx.recipe.filters
    assert choice is not None
    mask = heldout.mask(ctx.recipe, columns)
    target = rounds = None
    if "target" in state.keys:
        target = replace(columns, pool=opened.target(ctx, state.keys))
    if plan.trains_between(choice):
        rounds = Rounds(ctx, columns.pool, opened.heldout_rows(ctx, state.keys, columns))
    missing = state.to_come(selecting.used(choice, filters, columns))
    found = None
    if not missing & state.unknown:
        inputs = selecting.inputs(ctx, columns, choice, filters, mask, target=target, rounds=rounds)
        found = ctx.store.find("selections", key_of("selections", inputs))
    if found is not None:
        return found, _selected(state, found, old=True)
    if not missing and rounds is None and len(columns.pool) <= scoring.COUNTED:
        made, _ = selecting.select(ctx, columns, choice, filters, mask, target=target)
        return made, _selected(state, made, old=False)
    return _stand_in(state, columns, choice, mask, missing)


def _selected(state: State, made: Artifact, *, old: bool) -> Work:
    work = Work("select", "", int(old), int(not old), made.facts["kept"], exact=state.exact)
    if not old:
        work.bytes = made_bytes(state.ctx.store, "selections", made.key)
        work.seconds, work.how = made.facts["seconds"], scoring.DONE
    return work


def _stand_in(
    state: State, columns: Columns, choice: Select, mask: np.ndarray, missing: set[str]
) -> tuple[Artifact, Work]:
    """Random rows of the same budget, behind the filters that can be applied by now."""
    state.exact = False
    there = [f for f in state.ctx.recipe.filters if not state.to_come(f.columns)]
    like = choice.model_copy(update={"method": "random", "options": {}})
    made, _ = selecting.select(state.ctx, columns, like, there, mask)
    work = _selected(state, made, old=False)
    work.seconds = None
    method = selectors.build(choice.method, choice.options)
    if plan.trains_between(choice):
        work.tunings = int(getattr(method, "rounds", 1)) - 1
        work.how = "not timed: it tunes between its rounds"
    elif missing:
        work.how = f"not timed: it hangs on {', '.join(sorted(missing))}, to be computed"
    else:
        work.how = f"not timed: above {scoring.COUNTED:,} rows it is left to the run"
    state.notes.append(
        f"random rows stand in for {choice.method}: what follows is estimated by their lengths"
    )
    return made, work


def export(state: State) -> None:
    """Write the manifests."""
    ctx, columns = state.ctx, state.columns()
    held = opened.heldout_rows(ctx, state.keys, columns)
    for subset in stages.subsets(state.keys):
        selection = ctx.store.get("selections", state.keys[f"{subset}/selection"])
        start = time.monotonic()
        made, old = exporting.export(ctx, columns.pool, selection, held, publish=subset == "chosen")
        old = old and state.exact
        work = Work("export", subset, int(old), int(not old), made.facts["rows"])
        work.exact = state.exact
        if not old:
            work.seconds, work.how = time.monotonic() - start, scoring.DONE
            work.bytes = made_bytes(ctx.store, "manifests", made.key)
        state.keys[f"{subset}/manifest"] = made.key
        state.work.append(work)
