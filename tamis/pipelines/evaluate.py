"""Evaluation: a model on held-out rows, a row at a time, so that two models compare paired."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tamis.errors import RecipeError
from tamis.language.load import identity
from tamis.pipelines import command, plan
from tamis.pipelines import tune as tuning
from tamis.pipelines.context import Context
from tamis.pipelines.pool import Snapshot
from tamis.recipe import Evaluate, Model
from tamis.storage import files
from tamis.storage.artifact import Artifact, Maker
from tamis.trainer import evaluate as bundled

ROWS = "rows.parquet"
_RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Heldout:
    """The rows to evaluate on: some of a pool, by id."""

    pool: Snapshot
    ids: pa.Array

    def rows(self, columns: Sequence[str]) -> pa.Table:
        """These columns of the rows, in the order of `ids`."""
        missing = sorted(set(columns) - set(self.pool.columns()))
        if missing:
            raise RecipeError(
                f"the held-out rows have no column {missing[0]!r}; "
                f"they have {', '.join(sorted(self.pool.columns()))}"
            )
        return self.pool.rows(self.ids, ["id", *[c for c in columns if c != "id"]])

    def inputs(self) -> dict[str, Any]:
        """What identifies the rows, for keys."""
        return {
            "samples": sorted(self.pool.sources.items()),
            "ids": files.digest(self.ids.to_pylist()),
        }


def evaluate(
    ctx: Context, tuned: Artifact | None, held: Heldout | None, *, title: str = "evaluate"
) -> tuple[Artifact, bool]:
    """Evaluate a tuned model, or with None the recipe's untuned one; returns the artefact and
    whether it was there already.

    `rows.parquet` holds a row for every held-out row (see `tamis.trainer.evaluate`). Facts: `nll`,
    `token_accuracy`, `exact_match` and `stopped`, each with `value`, `low` and `high`, the same for
    every group under `groups`, and `dropped`: rows that could not be evaluated, by reason.
    """
    options = ctx.recipe.evaluate
    if options is None or held is None:
        raise RecipeError("the recipe has no evaluate block")
    given = inputs(ctx, tuned and tuned.key, held)
    if options.command is None:
        return _bundled(ctx, options, tuned, within(options, held), title, given)
    return _by_command(ctx, options.command, tuned, given)


def within(options: Evaluate, held: Heldout) -> Heldout:
    """The held-out rows that are evaluated on: the first ones, where the recipe sets a limit."""
    if options.limit is None:
        return held
    return Heldout(held.pool, held.ids.slice(0, options.limit))


def inputs(ctx: Context, tuned: str | None, held: Heldout) -> dict[str, Any]:
    """What determines the evaluation of the model of key `tuned`, for its own key."""
    options = ctx.recipe.evaluate
    if options is None:
        raise RecipeError("the recipe has no evaluate block")
    if options.command is not None:
        return {
            "command": options.command,
            "model": None if tuned else identity(_base(ctx)),
            "tuned": tuned,
            "seed": ctx.recipe.seed,
        }
    return {
        "version": bundled.VERSION,
        "model": identity(_base(ctx)),
        "tuned": tuned,
        "heldout": within(options, held).inputs(),
        "group_by": options.group_by,
        "max_new_tokens": options.max_new_tokens,
        "bootstrap": options.bootstrap,
        "seed": ctx.recipe.seed,
    }


def difference(a: Artifact, b: Artifact, *, seed: int) -> dict[str, Any]:
    """Every figure of evaluation A minus that of B on the same rows: value and 95 % interval.

    Empty when a command evaluated them: then there are no rows to pair.
    """
    if not ((a.path / ROWS).is_file() and (b.path / ROWS).is_file()):
        return {}
    one, other = pq.read_table(a.path / ROWS), pq.read_table(b.path / ROWS)
    resamples = a.facts.get("resamples", _RESAMPLES)
    return bundled.difference(one, other, resamples=resamples, seed=seed)


def asked(options: Evaluate, held: Heldout) -> pa.Table:
    """The rows as the evaluator takes them."""
    rows = held.rows(["messages", "tools", options.group_by])
    group = rows[options.group_by].cast(pa.string())
    return rows.select(["id", "messages", "tools"]).append_column("group", group)


def _bundled(
    ctx: Context,
    options: Evaluate,
    tuned: Artifact | None,
    held: Heldout,
    title: str,
    given: Mapping[str, Any],
) -> tuple[Artifact, bool]:
    base = _base(ctx)

    def make(maker: Maker) -> Mapping[str, Any]:
        start = time.monotonic()
        table = bundled.evaluate(
            asked(options, held),
            tuned_model(base, tuned),
            max_new_tokens=options.max_new_tokens,
            device=ctx.device,
            progress=ctx.progress,
            title=title,
        )
        maker.write_parquet(ROWS, table)
        return {
            **bundled.metrics(table, resamples=options.bootstrap, seed=ctx.recipe.seed),
            "resamples": options.bootstrap,
            "dropped": _dropped(table),
            "seconds": time.monotonic() - start,
        }

    return ctx.store.ensure("evaluations", given, make, say=ctx.say)


def _by_command(
    ctx: Context, line: str, tuned: Artifact | None, given: Mapping[str, Any]
) -> tuple[Artifact, bool]:
    base = None if tuned is not None else _base(ctx)

    def make(maker: Maker) -> Mapping[str, Any]:
        start = time.monotonic()
        model = str((tuned.path / "model").resolve()) if tuned else _needed(base).location
        places = {"model": model, "out": str((maker.folder / "out").resolve())}
        metrics = command.run(line, places, where="evaluate")
        if not metrics:
            raise RecipeError(
                f"evaluate: the command wrote no {command.METRICS} with numbers into {{out}}"
            )
        return {"metrics": metrics, "seconds": time.monotonic() - start}

    return ctx.store.ensure("evaluations", given, make, say=ctx.say)


def tuned_model(base: Model, tuned: Artifact | None) -> Model:
    """The model to load: an adapter on the base model, or weights of its own."""
    return base if tuned is None else tuning.left_in(tuned.path / tuning.MODEL, base)


def _base(ctx: Context) -> Model:
    tune = ctx.recipe.tune
    if tune is None or tune.model is None:
        raise RecipeError(
            "evaluate needs to know the model and its prompt style: name tune.model, "
            "also beside tune.command"
        )
    return plan.model(ctx.recipe, tune.model, "tune")


def _needed(base: Model | None) -> Model:
    if base is None:
        raise RecipeError("evaluate needs a model")
    return base


def _dropped(table: pa.Table) -> dict[str, int]:
    reasons = [r for r in table["reason"].to_pylist() if r is not None]
    return {reason: reasons.count(reason) for reason in sorted(set(reasons))}
