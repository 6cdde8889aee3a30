"""A run without its costs: every stage counted, in a store that is thrown away.

What is cheap is really done there (reading rows, rules, selections, manifests), so its keys are
those of the run, and what is reused is known. What is dear (models) is counted and timed on a few
rows. Where a selection hangs on values that are not there yet, random rows of the same budget stand
in for it, and what follows is told as an estimate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from tamis.pipelines import opened, plan, run, stages
from tamis.pipelines import refine as refiners
from tamis.pipelines.comparing import check
from tamis.pipelines.context import Context
from tamis.pipelines.forecast import comparison, refining, subsets, training, values
from tamis.pipelines.forecast.figures import Forecast, Work
from tamis.pipelines.forecast.leaving import leaving, remote
from tamis.pipelines.forecast.scoring import DONE
from tamis.pipelines.forecast.shadow import made_bytes, shadow
from tamis.pipelines.forecast.state import State
from tamis.recipe import Recipe

Step = Callable[[State], None]


def forecast(ctx: Context, *, until: str | None = None) -> Forecast:
    """What `run` would do with this recipe and store, up to `until`; writes nothing there.

    Counts are those of the run where `exact` says so. Seconds are those of a calibration, times
    what there is to do: a few rows through the recipe's models and a few steps of its training, in
    one process. Rows on other machines are not fetched: the forecast ends there. Raises what the
    run would raise before any work.
    """
    names = run.stages(ctx.recipe, until)
    plan.check(ctx.recipe, ctx.store, ctx.device)
    refiners.check(ctx.recipe, ctx.store, ctx.device)
    return _told(ctx, [STEPS[name] for name in names])


def forecast_comparison(ctx: Context) -> Forecast:
    """The same of `compare`: its stage `compare` counts cells, and in each its tuning and
    evaluation."""
    # What all cells share is read and scored without a method.
    recipe = check.checked(ctx).model_copy(update={"select": None})
    refine = [STEPS["refine"]] if recipe.refine is not None else []
    shared = [STEPS["ingest"], STEPS["score"], *refine]
    return _told(replace(ctx, recipe=recipe), [*shared, comparison.compare, STEPS["report"]])


def _told(ctx: Context, steps: Sequence[Step]) -> Forecast:
    with shadow(ctx) as inner:
        state = State(inner)
        far = _far(inner.recipe)
        if far:
            state.notes.append(f"{far}: its rows are counted when the run has fetched them")
        for step in [] if far else steps:
            step(state)
    leaves = leaving(ctx.recipe)
    notes = list(dict.fromkeys(state.notes))
    root = str(ctx.store.root)
    return Forecast(ctx.recipe.name, root, ctx.device, state.work, leaves, notes)


def _far(recipe: Recipe) -> str | None:
    """A source on another machine, if there is one."""
    for name, source in {**recipe.sources, **stages.aside(recipe)}.items():
        place = remote(source)
        if place is not None:
            return f"{name} ({place})"
    return None


def _ingest(state: State) -> None:
    """Read the rows: nothing else tells how many there are."""
    outcome = stages.ingest(state.ctx, {})
    state.keys |= outcome.keys
    for name, key in outcome.keys.items():
        size = made_bytes(state.ctx.store, "samples", key)
        work = Work("ingest", name, int(not size), int(bool(size)), bytes=size)
        work.rows = state.ctx.store.get("samples", key).facts["accepted"]
        if size:
            work.seconds, work.how = outcome.seconds / len(outcome.keys), DONE
        state.work.append(work)


def _tune(state: State) -> None:
    """Count the steps."""
    for subset in stages.subsets(state.keys):
        manifest = state.ctx.store.get("manifests", state.keys[f"{subset}/manifest"])
        key, work = training.tuned(
            state.ctx, manifest, state.trials, stage="tune", what=subset, exact=state.exact
        )
        state.keys[f"{subset}/model"] = key
        state.work.append(work)


def _evaluate(state: State) -> None:
    """Count what is read and asked."""
    held = opened.heldout_rows(state.ctx, state.keys, state.columns())
    assert held is not None
    for name in stages.evaluated(state.ctx.recipe, state.keys):
        key = None if name == "untuned" else state.keys[f"{name}/model"]
        exact = state.exact or name == "untuned"
        state.work.append(
            training.evaluated(state.ctx, key, held, state.trials, what=name, exact=exact)
        )


def _report(state: State) -> None:
    """Every run writes its page."""
    state.work.append(Work("report", "page", computed=1, seconds=0.0, how="some seconds"))


STEPS: Mapping[str, Step] = {
    "ingest": _ingest,
    "score": lambda state: values.score(state, "score"),
    "refine": refining.refine,
    "select": subsets.select,
    "export": subsets.export,
    "tune": _tune,
    "evaluate": _evaluate,
    "report": _report,
}
