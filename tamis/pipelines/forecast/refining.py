"""Refining: which versions are there, and how many rows a model would look at."""

from __future__ import annotations

from tamis.pipelines import evaluate as evaluation
from tamis.pipelines import heldout, plan, pretune
from tamis.pipelines import refine as refining
from tamis.pipelines.forecast import training, values
from tamis.pipelines.forecast.figures import Work
from tamis.pipelines.forecast.state import State
from tamis.recipe import Model


def refine(state: State) -> None:
    """Look whether the refined versions are there; count the rows a model would look at."""
    ctx, columns = state.ctx, state.columns()
    block = ctx.recipe.refine
    assert block is not None
    tuned = block.model in ctx.recipe.tuned
    ready = not state.to_come(refining.needs(ctx.recipe, ctx.device))
    model = _tuned_model(state, block.model) if tuned else refining.untuned(ctx.recipe)
    if ready and model is not None:
        mask = heldout.mask(ctx.recipe, columns)
        found = refining.versions(ctx, model, columns, mask)
        for name, version in found.items():
            there = ctx.store.find("samples", version.key) is not None
            work = Work("refine", name, int(there), int(not there), exact=state.exact)
            if there:
                state.keys[f"samples/{name}"] = version.key
            else:
                work.rows, work.how = version.rows, "not timed: answers are written"
                state.exact = False
            state.work.append(work)
    else:
        for name in ctx.recipe.sources:
            state.work.append(
                Work("refine", name, 0, 1, exact=False, how="not timed: hangs on values to come")
            )
        state.exact = False
    if state.exact:
        _again(state)
    else:
        state.notes.append(
            "rows that are refined are new contents: they are scored again, and what follows "
            "is counted by the rows as they are"
        )


def _tuned_model(state: State, name: str) -> Model | None:
    """The tuned model that writes answers, if it is there."""
    columns = state.columns()
    mask = heldout.mask(state.ctx.recipe, columns)
    for inner, manifest in pretune.manifests(state.ctx, columns, name, mask):
        key, work = training.tuned(
            inner, manifest, state.trials, stage="refine", what=name, exact=state.exact
        )
        if work.tunings:
            return None
        base = plan.model(state.ctx.recipe, state.ctx.recipe.tuned[name].model, name)
        return evaluation.tuned_model(base, state.ctx.store.get("models", key))
    return None


def _again(state: State) -> None:
    """Score the refined version, whose values the stage of refining counts for nothing."""
    begun = len(state.work)
    values.score(state, "refine")
    for work in state.work[begun:]:
        work.reused = work.computed = 0
