"""Scoring: fill the signals a recipe names, computing only the rows that have no value yet."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from tamis.pipelines import engines
from tamis.pipelines.context import Context, Outcome
from tamis.pipelines.pool import Snapshot
from tamis.pipelines.shards import Job, Rows, Shard
from tamis.scoring import registry
from tamis.scoring.base import Scorer
from tamis.storage.artifact import Store
from tamis.storage.signals import fingerprint


def score(ctx: Context, pool: Snapshot, scorers: Mapping[str, Scorer]) -> Outcome:
    """Score every row by scorers that look at one row at a time; returns their fingerprints.

    Shards are cut from the parts of the samples, so a run that was killed and started again
    computes the same batches and the same values as one that was not. Rows that were scored
    before, by any run on this store, are reused. One process at a time fills a signal.
    """
    return _score(ctx, [pool], [scorers])


def score_folds(
    ctx: Context, folds: Sequence[Rows], scorers: Sequence[Mapping[str, Scorer]]
) -> Outcome:
    """The same for rows in folds, each with scorers of its own that fill the same signals."""
    return _score(ctx, folds, scorers)


def _score(ctx: Context, folds: Sequence[Rows], scorers: Sequence[Mapping[str, Scorer]]) -> Outcome:
    start = time.monotonic()
    keys, work = jobs(ctx.store, folds, scorers)
    reused = computed = 0
    for job in work:
        done, todo = _fill(ctx, job)
        reused, computed = reused + done, computed + todo
    for name, key in keys.items():
        ctx.store.point("signals", name, key)
    outcome_keys = {f"signals/{name}": key for name, key in keys.items()}
    return Outcome("score", outcome_keys, reused, computed, time.monotonic() - start)


def jobs(
    store: Store, folds: Sequence[Rows], scorers: Sequence[Mapping[str, Scorer]]
) -> tuple[dict[str, str], list[Job]]:
    """The fingerprint of each signal, and the jobs that fill them: one for the scorers that are
    computed together, over the rows of a fold."""
    identities = {name: _identity([s[name] for s in scorers]) for name in scorers[0]}
    keys = {name: fingerprint(identity) for name, identity in identities.items()}
    found = []
    for rows, own in zip(folds, scorers, strict=True):
        for group in registry.group(own):
            told = {name: keys[name] for name in group.names}
            found.append(Job(store, rows, {n: own[n] for n in told}, told, identities))
    return keys, found


def _identity(scorers: Sequence[Scorer]) -> dict[str, Any]:
    """What determines a signal: its scorer, or those of all folds."""
    all_of = [{"scorer": s.name, "version": s.version, **s.identity()} for s in scorers]
    return all_of[0] if len(all_of) == 1 else {"scorer": scorers[0].name, "folds": all_of}


def _fill(ctx: Context, job: Job) -> tuple[int, int]:
    """Score what is missing; returns how many values (row x signal) there were and were made."""
    part = "" if ctx.part is None else "-{}-of-{}".format(*ctx.part)
    with ExitStack() as locks:
        for key in sorted(set(job.keys.values())):
            locks.enter_context(ctx.store.lock("signals", key + part, say=ctx.say))
        shards = _mine(ctx, job.todo())
        missing = sum(len(shard.rows) for shard in shards)
        total = len(job.rows) * len(job.scorers)
        if not shards:
            return total, 0
        with ctx.progress(f"score {', '.join(job.scorers)}", missing) as advance:
            computed, warnings = engines.run(ctx.recipe.engine, job, shards, advance)
    for warning in warnings:
        ctx.say(warning)
    return total - sum(int(m.sum()) for s in shards for m in s.lacking.values()), computed


def _mine(ctx: Context, shards: list[Shard]) -> list[Shard]:
    """The shards of this array job: which those are does not hang on what is missing by now."""
    if ctx.part is None:
        return shards
    number, of = ctx.part
    return [shard for shard in shards if (shard.number + shard.block) % of == number - 1]
