"""The stages of a recipe: each takes the keys that earlier ones left and returns its own.

Keys are small texts, so the same functions serve the command, a test and a scheduler.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

from tamis.errors import RecipeError
from tamis.pipelines import evaluate as evaluation
from tamis.pipelines import export as exporting
from tamis.pipelines import heldout, opened, plan, signals
from tamis.pipelines import refine as refining
from tamis.pipelines import select as selecting
from tamis.pipelines import tune as tuning
from tamis.pipelines.columns import Columns
from tamis.pipelines.context import Context, Outcome
from tamis.pipelines.ingest import ingest_source
from tamis.pipelines.report import report
from tamis.pipelines.rounds import Rounds
from tamis.recipe import Budget, Recipe, Select, Source
from tamis.storage.artifact import Artifact

Keys = Mapping[str, str]
Block = TypeVar("Block")
# The two subsets a run may hold against each other, and the prefix of their keys.
SUBSETS = ("chosen", "baseline")


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
    for name, source in aside(ctx.recipe).items():
        artifact, old = ingest_source(ctx.store, name, source, say=ctx.say, progress=ctx.progress)
        made[name] = artifact.key
        facts[name] = artifact.facts
        reused += old
    return Outcome("ingest", made, reused, len(made) - reused, time.monotonic() - start, facts)


def aside(recipe: Recipe) -> dict[str, Source]:
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
    target = opened.target(ctx, keys) if "target" in keys else None
    return signals.score(ctx, opened.pool(ctx, keys), target)


def refine(ctx: Context, keys: Keys) -> Outcome:
    """Give rows better answers, and score those that have: the run goes on with the new version."""
    start = time.monotonic()
    columns = opened.columns(ctx, keys)
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
    columns = opened.columns(ctx, keys)
    mask = heldout.mask(ctx.recipe, columns)
    chosen, old = picked(ctx, keys, columns, mask)
    ctx.store.point("selections", "chosen", chosen.key)
    made = {"chosen/selection": chosen.key}
    facts = {"chosen": chosen.facts}
    reused = int(old)
    if ctx.recipe.evaluate is not None and ctx.recipe.evaluate.baseline is not None:
        baseline, old = selecting.select(ctx, columns, alike(chosen), [], mask)
        made["baseline/selection"] = baseline.key
        facts["baseline"] = baseline.facts
        reused += old
    return Outcome("select", made, reused, len(made) - reused, time.monotonic() - start, facts)


def picked(ctx: Context, keys: Keys, columns: Columns, mask: np.ndarray) -> tuple[Artifact, bool]:
    """The subset that the recipe's method picks, whatever the method needs beside the pool."""
    choice = _needed(ctx.recipe.select)
    target = None
    if "target" in keys:
        target = Columns(ctx.store, opened.target(ctx, keys), columns.signals, ctx.say)
    rounds = None
    if plan.trains_between(choice):
        rounds = Rounds(ctx, columns.pool, opened.heldout_rows(ctx, keys, columns))
    return selecting.select(
        ctx, columns, choice, ctx.recipe.filters, mask, target=target, rounds=rounds
    )


def alike(chosen: Artifact) -> Select:
    """The choice of random rows of the whole pool that cost as many tokens as the chosen ones."""
    facts = chosen.facts
    if "total_tokens" in facts:
        return Select(method="random", budget=Budget(tokens=facts["total_tokens"]))
    return Select(method="random", budget=Budget(rows=facts["rows_shown"]))


def export(ctx: Context, keys: Keys) -> Outcome:
    """Write the manifest of every subset."""
    start = time.monotonic()
    columns = opened.columns(ctx, keys)
    held = opened.heldout_rows(ctx, keys, columns)
    made: dict[str, str] = {}
    facts: dict[str, Any] = {}
    reused = 0
    for subset in subsets(keys):
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
    for subset in subsets(keys):
        manifest = ctx.store.get("manifests", keys[f"{subset}/manifest"])
        artifact, old = tuning.tune(ctx, manifest.path, title=f"tune on the {subset} rows")
        made[f"{subset}/model"] = artifact.key
        facts[subset] = artifact.facts
        reused += old
    return Outcome("tune", made, reused, len(made) - reused, time.monotonic() - start, facts)


def evaluate(ctx: Context, keys: Keys) -> Outcome:
    """Evaluate the untuned model and every tuned one on the same held-out rows."""
    start = time.monotonic()
    held = opened.heldout_rows(ctx, keys, opened.columns(ctx, keys))
    made: dict[str, str] = {}
    results: dict[str, Artifact] = {}
    reused = 0
    for name in evaluated(ctx.recipe, keys):
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


def subsets(keys: Keys) -> list[str]:
    """The subsets that a run has."""
    return [s for s in SUBSETS if f"{s}/selection" in keys]


def evaluated(recipe: Recipe, keys: Keys) -> list[str]:
    """What is evaluated: the model of every subset, and the one before any tuning."""
    return [*subsets(keys)] + (["untuned"] if _needed(recipe.tune).command is None else [])


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
