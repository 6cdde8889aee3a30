"""What stages read, opened by the keys that earlier ones left: the pool, its columns, held-out
rows."""

from __future__ import annotations

from collections.abc import Mapping

from tamis.pipelines import evaluate as evaluation
from tamis.pipelines import heldout, signals
from tamis.pipelines import select as selecting
from tamis.pipelines.columns import Columns
from tamis.pipelines.context import Context
from tamis.pipelines.pool import Snapshot, snapshot
from tamis.recipe import Recipe

Keys = Mapping[str, str]


def pool(ctx: Context, keys: Keys) -> Snapshot:
    """The samples of all sources."""
    prefix = "samples/"
    return snapshot(
        ctx.store, {n.removeprefix(prefix): k for n, k in keys.items() if n.startswith(prefix)}
    )


def target(ctx: Context, keys: Keys) -> Snapshot:
    """The rows that the selection should come to resemble."""
    return snapshot(ctx.store, {"target": keys["target"]})


def columns(ctx: Context, keys: Keys) -> Columns:
    """The pool's columns: the signals of this run, then whatever else the store has scored.

    But for the tokens: which rows can be trained on hangs on the model and its cut-off, so those
    of another recipe count only where a budget asks for them.
    """
    stored, own = ctx.store.latest("signals"), signals.of(keys)
    if not _counts_tokens(ctx.recipe):
        stored = {name: key for name, key in stored.items() if name != selecting.TOKENS}
    known = {**stored, **own}
    return Columns(ctx.store, pool(ctx, keys), known, ctx.say)


def _counts_tokens(recipe: Recipe) -> bool:
    budget = recipe.select and recipe.select.budget
    return bool(budget and (budget.value("tokens") or budget.value("supervised_tokens")))


def heldout_rows(ctx: Context, keys: Keys, given: Columns) -> evaluation.Heldout | None:
    """The rows to evaluate on: the ones of the held-out file, or those split off the pool."""
    if ctx.recipe.evaluate is None:
        return None
    if "heldout" in keys:
        rows = snapshot(ctx.store, {"heldout": keys["heldout"]})
        return evaluation.Heldout(rows, rows.ids)
    ids = given.pool.ids.filter(heldout.mask(ctx.recipe, given))
    return evaluation.Heldout(given.pool, ids)
