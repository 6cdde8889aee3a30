"""The whole chain: every stage of a recipe, each reusing what the store holds already.

A stage takes the keys that earlier stages left and returns an `Outcome` with its own. Keys are
small texts, so the same functions serve the command, a test and a scheduler.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tamis.errors import RecipeError
from tamis.numerics.device import resolve
from tamis.pipelines import evaluate as evaluation
from tamis.pipelines import export as exporting
from tamis.pipelines import heldout, plan, runlog, signals
from tamis.pipelines import refine as refining
from tamis.pipelines import select as selecting
from tamis.pipelines import tune as tuning
from tamis.pipelines.columns import Columns
from tamis.pipelines.context import Context, Outcome, Progress
from tamis.pipelines.ingest import ingest_source
from tamis.pipelines.pool import Snapshot, snapshot
from tamis.pipelines.report import report
from tamis.pipelines.rounds import Rounds
from tamis.recipe import Budget, Recipe, Select, Source
from tamis.storage.artifact import Artifact, Say, Store

Keys = Mapping[str, str]
Runner = Callable[[str, Keys], Outcome]
Block = TypeVar("Block")
# The two subsets a run may hold against each other, and the prefix of their keys.
SUBSETS = ("chosen", "baseline")


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
            outcome = runner(name, keys)
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
    """One line on a stage: what was reused, what was computed, how long it took."""
    done = f"reused {outcome.reused:,}, computed {outcome.computed:,}"
    return f"{outcome.stage:<9} {done} ({outcome.seconds:.1f} s)"


def ingest(ctx: Context, keys: Keys) -> Outcome:
    """Ingest every source, and the held-out file if the recipe names one."""
    start = time.monotonic()
    made: dict[str, str] = {}
    facts: dict[str, Any] = {}
    reused = 0
    for name, source in ctx.recipe.sources.items():
        if source.stored:
            artifact, old = ctx.store.get("samples", ctx.store.latest("samples")[name]), True
            if ctx.recipe.refine is not None:
                artifact = refining.ingested(ctx.store, artifact)
        else:
            artifact, old = ingest_source(
                ctx.store, name, source, say=ctx.say, progress=ctx.progress
            )
            ctx.store.point("samples", name, artifact.key)
        made[f"samples/{name}"] = artifact.key
        facts[name] = artifact.facts
        reused += old
    # Not pointed to: what people query as `samples` is the pool.
    for name, source in _aside(ctx.recipe).items():
        artifact, old = ingest_source(ctx.store, name, source, say=ctx.say, progress=ctx.progress)
        made[name] = artifact.key
        facts[name] = artifact.facts
        reused += old
    return Outcome("ingest", made, reused, len(made) - reused, time.monotonic() - start, facts)


def _aside(recipe: Recipe) -> dict[str, Source]:
    """Rows that are read beside the pool: those to evaluate on, and the target of the selection."""
    aside = {}
    evaluate = recipe.evaluate
    if evaluate is not None and evaluate.path is not None:
        aside["heldout"] = Source(path=evaluate.path, limit=evaluate.limit)
    if recipe.target is not None:
        aside["target"] = recipe.target
    return aside


def score(ctx: Context, keys: Keys) -> Outcome:
    """Score the pool by every scorer of the recipe, and the target by those the method compares."""
    target = _target(ctx, keys) if "target" in keys else None
    return signals.score(ctx, _pool(ctx, keys), target)


def refine(ctx: Context, keys: Keys) -> Outcome:
    """Give rows better answers, and score those that have: the run goes on with the new version."""
    start = time.monotonic()
    columns = _columns(ctx, keys)
    made = refining.refine(ctx, columns, heldout.mask(ctx.recipe, columns))
    for name, (artifact, _) in made.items():
        ctx.store.point("samples", name, artifact.key)
    versions = {f"samples/{name}": artifact.key for name, (artifact, _) in made.items()}
    scored = score(ctx, {**keys, **versions})
    reused = sum(old for _, old in made.values())
    facts = {name: artifact.facts for name, (artifact, _) in made.items()}
    seconds = time.monotonic() - start
    return Outcome(
        "refine", {**versions, **scored.keys}, reused, len(made) - reused, seconds, facts
    )


def select(ctx: Context, keys: Keys) -> Outcome:
    """Pick the subset, and a random one of equal token budget when there is an evaluation."""
    start = time.monotonic()
    choice = _needed(ctx.recipe.select)
    columns = _columns(ctx, keys)
    mask = heldout.mask(ctx.recipe, columns)
    target = None
    if "target" in keys:
        target = Columns(ctx.store, _target(ctx, keys), columns.signals, ctx.say)
    rounds = None
    if plan.trains_between(choice):
        rounds = Rounds(ctx, columns.pool, _heldout_rows(ctx, keys, columns))
    chosen, old = selecting.select(
        ctx, columns, choice, ctx.recipe.filters, mask, target=target, rounds=rounds
    )
    ctx.store.point("selections", "chosen", chosen.key)
    made = {"chosen/selection": chosen.key}
    facts = {"chosen": chosen.facts}
    reused = int(old)
    if ctx.recipe.evaluate is not None and ctx.recipe.evaluate.baseline is not None:
        baseline, old = selecting.select(ctx, columns, _random(chosen), [], mask)
        made["baseline/selection"] = baseline.key
        facts["baseline"] = baseline.facts
        reused += old
    return Outcome("select", made, reused, len(made) - reused, time.monotonic() - start, facts)


def _random(chosen: Artifact) -> Select:
    """Random rows of the whole pool that cost as many tokens as the chosen ones."""
    facts = chosen.facts
    if "total_tokens" in facts:
        return Select(method="random", budget=Budget(tokens=facts["total_tokens"]))
    return Select(method="random", budget=Budget(rows=facts["rows_shown"]))


def export(ctx: Context, keys: Keys) -> Outcome:
    """Write the manifest of every subset."""
    start = time.monotonic()
    columns = _columns(ctx, keys)
    held = _heldout_rows(ctx, keys, columns)
    made: dict[str, str] = {}
    facts: dict[str, Any] = {}
    reused = 0
    for subset in _subsets(keys):
        selection = ctx.store.get("selections", keys[f"{subset}/selection"])
        artifact, old = exporting.export(
            ctx, columns.pool, selection, held, publish=subset == "chosen"
        )
        made[f"{subset}/manifest"] = artifact.key
        facts[subset] = artifact.facts
        reused += old
    return Outcome("export", made, reused, len(made) - reused, time.monotonic() - start, facts)


def tune(ctx: Context, keys: Keys) -> Outcome:
    """Tune the model on every subset."""
    start = time.monotonic()
    made: dict[str, str] = {}
    facts: dict[str, Any] = {}
    reused = 0
    for subset in _subsets(keys):
        manifest = ctx.store.get("manifests", keys[f"{subset}/manifest"])
        artifact, old = tuning.tune(ctx, manifest.path, title=f"tune on the {subset} rows")
        made[f"{subset}/model"] = artifact.key
        facts[subset] = artifact.facts
        reused += old
    return Outcome("tune", made, reused, len(made) - reused, time.monotonic() - start, facts)


def evaluate(ctx: Context, keys: Keys) -> Outcome:
    """Evaluate the untuned model and every tuned one on the same held-out rows."""
    start = time.monotonic()
    held = _heldout_rows(ctx, keys, _columns(ctx, keys))
    made: dict[str, str] = {}
    results: dict[str, Artifact] = {}
    reused = 0
    names = [*_subsets(keys)] + (["untuned"] if _needed(ctx.recipe.tune).command is None else [])
    for name in names:
        tuned = None if name == "untuned" else ctx.store.get("models", keys[f"{name}/model"])
        results[name], old = evaluation.evaluate(ctx, tuned, held, title=f"evaluate {name}")
        made[f"{name}/evaluation"] = results[name].key
        reused += old
    facts: dict[str, Any] = {name: artifact.facts for name, artifact in results.items()}
    if "baseline" in results:
        facts["difference"] = evaluation.difference(
            results["chosen"], results["baseline"], seed=ctx.recipe.seed
        )
    return Outcome("evaluate", made, reused, len(made) - reused, time.monotonic() - start, facts)


def write_report(ctx: Context, keys: Keys) -> Outcome:
    """Write the report page of this run into the store."""
    start = time.monotonic()
    path = report(ctx, keys)
    return Outcome("report", {}, 0, 1, time.monotonic() - start, {"path": str(path)})


def _pool(ctx: Context, keys: Keys) -> Snapshot:
    prefix = "samples/"
    return snapshot(
        ctx.store, {n.removeprefix(prefix): k for n, k in keys.items() if n.startswith(prefix)}
    )


def _target(ctx: Context, keys: Keys) -> Snapshot:
    return snapshot(ctx.store, {"target": keys["target"]})


def _columns(ctx: Context, keys: Keys) -> Columns:
    """The pool's columns: the signals of this run, then whatever else the store has scored."""
    known = {**ctx.store.latest("signals"), **signals.of(keys)}
    return Columns(ctx.store, _pool(ctx, keys), known, ctx.say)


def _subsets(keys: Keys) -> list[str]:
    return [s for s in SUBSETS if f"{s}/selection" in keys]


def _heldout_rows(ctx: Context, keys: Keys, columns: Columns) -> evaluation.Heldout | None:
    """The rows to evaluate on: the ones of the held-out file, or those split off the pool."""
    if ctx.recipe.evaluate is None:
        return None
    if "heldout" in keys:
        pool = snapshot(ctx.store, {"heldout": keys["heldout"]})
        return evaluation.Heldout(pool, pool.ids)
    ids = columns.pool.ids.filter(heldout.mask(ctx.recipe, columns))
    return evaluation.Heldout(columns.pool, ids)


def _needed(block: Block | None) -> Block:
    if block is None:
        raise RecipeError("the recipe has no block for this stage")
    return block


STAGES: dict[str, Callable[[Context, Keys], Outcome]] = {
    "ingest": ingest,
    "score": score,
    "refine": refine,
    "select": select,
    "export": export,
    "tune": tune,
    "evaluate": evaluate,
    "report": write_report,
}
