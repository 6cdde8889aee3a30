"""The values of signals: which are there, which are to be computed, what that costs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from tempfile import TemporaryDirectory

import pyarrow as pa

from tamis.pipelines import evaluate as evaluation
from tamis.pipelines import heldout, opened, plan, pool_scores, pretune
from tamis.pipelines import score as rows
from tamis.pipelines.forecast import scoring, training
from tamis.pipelines.forecast.figures import Work
from tamis.pipelines.forecast.state import State
from tamis.pipelines.pool import Snapshot
from tamis.pipelines.shards import Job
from tamis.scoring.base import PoolScorer, Scorer
from tamis.scoring.registry import of_the_pool
from tamis.storage.artifact import Store
from tamis.storage.signals import SignalTable, fingerprint


def score(state: State, stage: str) -> None:
    """Count the values that are not there, in the order of `signals.score`."""
    ctx, pool = state.ctx, opened.pool(state.ctx, state.keys)
    scorers = plan.scorers(ctx.recipe, ctx.device)
    later = plan.tuned(ctx.recipe)
    whole = {n: s for n, s in scorers.items() if of_the_pool(s)}
    now = {n: s for n, s in scorers.items() if n not in later and n not in whole}
    begun = len(state.work)
    _rows(state, pool, now)
    for name in sorted(set(later.values())):
        _by_tuned(state, pool, name, [n for n in scorers if later.get(n) == name])
    for name in pool_scores.ordered(whole):
        _whole(state, pool, name, whole[name])
    for work in state.work[begun:]:
        work.stage = stage


def _rows(state: State, pool: Snapshot, scorers: Mapping[str, Scorer]) -> None:
    if not scorers:
        return
    keys, jobs = rows.jobs(state.ctx.store, [pool], [scorers])
    for job in jobs:
        _job(state, job)
    state.keys |= {f"signals/{name}": key for name, key in keys.items()}
    wanted = plan.target_signals(state.ctx.recipe) if "target" in state.keys else set()
    compared = {n: s for n, s in scorers.items() if n in wanted}
    if compared:
        there = pool.column("content_key")
        target = opened.target(state.ctx, state.keys)
        for job in rows.jobs(state.ctx.store, [target], [compared])[1]:
            _job(state, job, there, " of the target")


def _job(state: State, job: Job, there: pa.Array | None = None, told: str = "") -> None:
    work = scoring.scored(state.ctx, job, there)
    work.what += told
    work.exact = work.exact and state.exact
    state.work.append(work)
    if work.computed and work.how != scoring.DONE:
        state.lacking |= set(job.scorers)


def _by_tuned(state: State, pool: Snapshot, name: str, wanted: list[str]) -> None:
    """Signals of a model that is tuned first: its folds, then its rows."""
    ctx, columns = state.ctx, state.columns()
    base = plan.model(ctx.recipe, ctx.recipe.tuned[name].model, f"tuned.{name}")
    models = []
    mask = heldout.mask(ctx.recipe, columns)
    for number, (inner, manifest) in enumerate(pretune.manifests(ctx, columns, name, mask), 1):
        what = f"tune {name}, fold {number}"
        key, work = training.tuned(
            inner, manifest, state.trials, stage="score", what=what, exact=state.exact
        )
        # A stage of scores counts values, and the models behind them are no values.
        work.reused = work.computed = 0
        state.work.append(work)
        if not work.tunings:
            models.append(evaluation.tuned_model(base, ctx.store.get("models", key)))
    folds = ctx.recipe.tuned[name].folds
    there = len(models) == folds
    given = models if there else [base] * folds
    scorers = [{n: plan.scorer(ctx.recipe, n, m, ctx.device) for n in wanted} for m in given]
    blocks = [pool] if folds == 1 else [pretune.Fold(pool, i, folds) for i in range(folds)]
    if there:
        keys, jobs = rows.jobs(ctx.store, blocks, scorers)
        state.keys |= {f"signals/{n}": key for n, key in keys.items()}
        for job in jobs:
            _job(state, job)
        return
    state.unknown |= set(wanted)
    # Counted with the model before it is tuned, and as if nothing were stored of it.
    with TemporaryDirectory(prefix="tamis-plan-") as empty:
        for job in rows.jobs(Store(empty), blocks, scorers)[1]:
            _job(state, job)


def _whole(state: State, pool: Snapshot, name: str, scorer: PoolScorer) -> None:
    ctx, n = state.ctx, len(pool)
    reads = {c.partition(".")[0] for c in scorer.needs() if "." in c}
    work = Work("score", name, rows=n, exact=state.exact)
    state.work.append(work)
    if not reads & state.unknown:
        key = fingerprint(pool_scores.identity(state.columns(), scorer))
        state.keys[f"signals/{name}"] = key
        if SignalTable(ctx.store, name, key).parts():
            work.rows, work.reused = 0, n
            return
    else:
        state.unknown.add(name)
    work.computed = n
    ready = not state.to_come(scorer.needs())
    if not (ready and scoring.by_rules({name: scorer}) and n <= scoring.COUNTED):
        state.lacking.add(name)
        work.how = "not timed: it needs all rows and what they are compared by"
        work.exact = work.exact and scoring.by_rules({name: scorer})
        return
    start = time.monotonic()
    key, _ = pool_scores.score(ctx, pool, name, scorer, state.columns().signals)
    work.seconds, work.how = time.monotonic() - start, scoring.DONE
    work.bytes = sum(p.stat().st_size for p in SignalTable(ctx.store, name, key).parts())
