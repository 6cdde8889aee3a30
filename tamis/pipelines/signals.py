"""Everything a recipe scores, in the order in which one needs the other."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

from tamis.pipelines import heldout, plan, pool_scores, pretune
from tamis.pipelines import score as rows
from tamis.pipelines.columns import Columns
from tamis.pipelines.context import Context, Outcome
from tamis.pipelines.pool import Snapshot
from tamis.scoring.base import PoolScorer, Scorer
from tamis.scoring.registry import of_the_pool


def score(ctx: Context, pool: Snapshot, target: Snapshot | None) -> Outcome:
    """Score the pool by every scorer of the recipe; returns the fingerprint of each signal.

    First come scorers that look at one row at a time, then those of models that are tuned on the
    pool before, at last those that need all rows, each after the signals it reads. The rows of the
    `target` get the signals that the method compares them by.
    """
    scorers = plan.scorers(ctx.recipe, ctx.device)
    later = plan.tuned(ctx.recipe)
    whole = {n: s for n, s in scorers.items() if of_the_pool(s)}
    now = {n: s for n, s in scorers.items() if n not in later and n not in whole}
    outcome = _joined(rows.score(ctx, pool, now), _target(ctx, target, now))
    if ctx.part is not None:
        _tell_left(ctx, [*later, *whole])
        return outcome
    for name in sorted(set(later.values())):
        wanted = [n for n in scorers if later.get(n) == name]
        outcome = _joined(outcome, _by_tuned(ctx, pool, target, name, wanted, outcome))
    return _joined(outcome, _whole(ctx, pool, whole, outcome))


def _tell_left(ctx: Context, names: list[str]) -> None:
    if names:
        ctx.say(
            f"left for a run without --part, which sees the rows of all parts: {', '.join(names)}"
        )


def of(outcome_keys: Mapping[str, str]) -> dict[str, str]:
    """Signals by name, out of the keys of a run."""
    prefix = "signals/"
    return {n.removeprefix(prefix): k for n, k in outcome_keys.items() if n.startswith(prefix)}


def _by_tuned(
    ctx: Context,
    pool: Snapshot,
    target: Snapshot | None,
    name: str,
    wanted: list[str],
    before: Outcome,
) -> Outcome:
    """The signals of a model that is tuned first; rows of a fold by the model that did not see
    them."""
    start = time.monotonic()
    columns = Columns(ctx.store, pool, of(before.keys), ctx.say)
    models = pretune.models(ctx, columns, name, heldout.mask(ctx.recipe, columns))
    scorers = [{n: plan.scorer(ctx.recipe, n, m, ctx.device) for n in wanted} for m in models]
    if len(models) == 1:
        outcome = _joined(rows.score(ctx, pool, scorers[0]), _target(ctx, target, scorers[0]))
    else:
        folds = [pretune.Fold(pool, i, len(models)) for i in range(len(models))]
        outcome = rows.score_folds(ctx, folds, scorers)
    return replace(outcome, seconds=time.monotonic() - start)


def _target(ctx: Context, target: Snapshot | None, scorers: Mapping[str, Scorer]) -> Outcome:
    """The signals that the method compares its target by, among those of these scorers."""
    wanted = plan.target_signals(ctx.recipe) if target is not None else set()
    given = {n: s for n, s in scorers.items() if n in wanted}
    if target is None or not given:
        return Outcome("score", {}, 0, 0, 0.0)
    return rows.score(ctx, target, given)


def _whole(
    ctx: Context, pool: Snapshot, scorers: Mapping[str, PoolScorer], before: Outcome
) -> Outcome:
    start = time.monotonic()
    signals, keys, reused = of(before.keys), {}, 0
    for name in pool_scores.ordered(scorers):
        signals[name], done = pool_scores.score(ctx, pool, name, scorers[name], signals)
        keys[f"signals/{name}"] = signals[name]
        reused += done
    n = len(pool)
    return Outcome("score", keys, reused * n, (len(keys) - reused) * n, time.monotonic() - start)


def _joined(one: Outcome, other: Outcome) -> Outcome:
    return replace(
        one,
        keys={**one.keys, **other.keys},
        reused=one.reused + other.reused,
        computed=one.computed + other.computed,
        seconds=one.seconds + other.seconds,
    )
