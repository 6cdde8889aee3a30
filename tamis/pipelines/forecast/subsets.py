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
    """Find or make the selection, or let random rows stand in for it."""
    ctx, columns = state.ctx, state.columns()
    choice = ctx.recipe.select
    assert choice is not None
    mask = heldout.mask(ctx.recipe, columns)
    target = None
    if "target" in state.keys:
        target = replace(columns, pool=opened.target(ctx, state.keys))
    rounds = None
    if plan.trains_between(choice):
        rounds = Rounds(ctx, columns.pool, opened.heldout_rows(ctx, state.keys, columns))
    filters = ctx.recipe.filters
    missing = state.to_come(selecting.used(choice, filters, columns))
    found = None
    if not missing & state.unknown:
        inputs = selecting.inputs(ctx, columns, choice, filters, mask, target=target, rounds=rounds)
        found = ctx.store.find("selections", key_of("selections", inputs))
    if found is not None:
        _selected(state, "chosen", found, old=True)
    elif not missing and rounds is None and len(columns.pool) <= scoring.COUNTED:
        made, _ = selecting.select(ctx, columns, choice, filters, mask, target=target)
        _selected(state, "chosen", made, old=False)
    else:
        _stand_in(state, columns, choice, mask, missing)
    if ctx.recipe.evaluate is not None and ctx.recipe.evaluate.baseline is not None:
        chosen = ctx.store.get("selections", state.keys["chosen/selection"])
        made, old = selecting.select(ctx, columns, stages.alike(chosen), [], mask)
        _selected(state, "baseline", made, old=old)


def _selected(state: State, subset: str, made: Artifact, *, old: bool) -> None:
    work = Work("select", subset, int(old), int(not old), exact=state.exact)
    work.rows = made.facts["kept"]
    if not old:
        work.bytes = made_bytes(state.ctx.store, "selections", made.key)
        work.seconds, work.how = made.facts["seconds"], scoring.DONE
    state.keys[f"{subset}/selection"] = made.key
    state.work.append(work)


def _stand_in(
    state: State, columns: Columns, choice: Select, mask: np.ndarray, missing: set[str]
) -> None:
    """Random rows of the same budget, behind the filters that can be applied by now."""
    state.exact = False
    there = [f for f in state.ctx.recipe.filters if not state.to_come(f.columns)]
    like = choice.model_copy(update={"method": "random", "options": {}})
    made, _ = selecting.select(state.ctx, columns, like, there, mask)
    _selected(state, "chosen", made, old=False)
    work = state.work[-1]
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


def export(state: State) -> None:
    """Write the manifests."""
    ctx, columns = state.ctx, state.columns()
    held = opened.heldout_rows(ctx, state.keys, columns)
    for subset in stages.subsets(state.keys):
        selection = ctx.store.get("selections", state.keys[f"{subset}/selection"])
        start = time.monotonic()
        made, old = exporting.export(ctx, columns.pool, selection, held, publish=subset == "chosen")
        work = Work("export", subset, int(old), int(not old), made.facts["rows"])
        work.exact = state.exact
        if not old:
            work.seconds, work.how = time.monotonic() - start, scoring.DONE
            work.bytes = made_bytes(ctx.store, "manifests", made.key)
        state.keys[f"{subset}/manifest"] = made.key
        state.work.append(work)
