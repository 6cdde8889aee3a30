"""The whole chain: every stage of a recipe, each reusing what the store holds already."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tamis.errors import RecipeError
from tamis.language.tally import counted
from tamis.numerics.device import resolve
from tamis.pipelines import plan, runlog
from tamis.pipelines import refine as refining
from tamis.pipelines.context import Context, Outcome, Progress
from tamis.pipelines.stages import STAGES, Keys
from tamis.recipe import Recipe
from tamis.storage.artifact import Say, Store

Runner = Callable[[str, Keys], Outcome]


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run did: the store, its id there, and the outcome of every stage."""

    store: Path
    run_id: str
    outcomes: list[Outcome]

    @property
    def keys(self) -> dict[str, str]:
        """The keys of all artefacts, by name."""
        return {name: key for o in self.outcomes for name, key in o.keys.items()}

    def facts(self, stage: str) -> Mapping[str, Any]:
        """What a stage had to tell; empty when it did not run."""
        return next((o.facts for o in self.outcomes if o.stage == stage), {})


def context(
    recipe: Recipe,
    *,
    say: Say,
    progress: Progress,
    store: str | None = None,
    part: tuple[int, int] | None = None,
) -> Context:
    """The surroundings of a run. `store` overrides the recipe's; `part` (i, of n) scores only the
    shards of one of n array jobs."""
    place = Store(store or recipe.store)
    recipe = recipe.model_copy(update={"store": str(place.root)})
    return Context(recipe, place, resolve(recipe.device), say, progress, part)


def run(ctx: Context, *, until: str | None = None, runner: Runner | None = None) -> Summary:
    """Run the stages of the recipe in order, up to and including `until`; writes the run's log.

    Everything that can be checked is checked first. `runner` runs one stage, in this process
    unless an orchestrator gives its own. Raises `TamisError`; what was finished by then stays in
    the store and is reused by the next run.
    """
    names = stages(ctx.recipe, until)
    plan.check(ctx.recipe, ctx.store, ctx.device)
    refining.check(ctx.recipe, ctx.store, ctx.device)
    runner = runner or (lambda name, keys: STAGES[name](ctx, keys))
    log = runlog.begin(ctx)
    outcomes: list[Outcome] = []
    keys: dict[str, str] = {}
    try:
        for name in names:
            with counted() as read:
                outcome = replace(runner(name, keys), read=read)
            keys |= outcome.keys
            outcomes.append(outcome)
            ctx.say(described(outcome))
            runlog.update(ctx, log, outcomes, "running")
    except BaseException:
        runlog.update(ctx, log, outcomes, "failed")
        raise
    runlog.update(ctx, log, outcomes, "complete")
    return Summary(ctx.store.root, log.run_id, outcomes)


def stages(recipe: Recipe, until: str | None = None) -> list[str]:
    """The stages a recipe asks for, up to and including `until`."""
    asked = {
        "ingest": True,
        "score": True,
        "refine": recipe.refine is not None,
        "select": recipe.select is not None,
        "export": recipe.select is not None,
        "tune": recipe.tune is not None,
        "evaluate": recipe.evaluate is not None,
        "report": True,
    }
    if until is not None and not asked.get(until, False):
        wanted = ", ".join(name for name, there in asked.items() if there)
        raise RecipeError(f"the recipe has no stage {until!r}; it has {wanted}")
    names = [name for name in STAGES if asked[name]]
    return names if until is None else names[: names.index(until) + 1]


def described(outcome: Outcome) -> str:
    """One line on a stage: what was reused and computed, what models read, how long it took."""
    done = f"reused {outcome.reused:,}, computed {outcome.computed:,}"
    read = outcome.read
    passes = f", {read.passes:,} passes of {read.tokens:,} tokens" if read.passes else ""
    return f"{outcome.stage:<9} {done}{passes} ({outcome.seconds:.1f} s)"
