"""Scoring: fill the signals a recipe names, computing only the rows that have no value yet."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tamis.pipelines import pool_scores
from tamis.pipelines.context import Context, Outcome
from tamis.pipelines.pool import Snapshot
from tamis.pipelines.pool_scores import arrow
from tamis.scoring import registry
from tamis.scoring.base import Advance, Scorer
from tamis.scoring.registry import of_the_pool
from tamis.storage.signals import KEY, SignalTable, fingerprint

# A shard is what a kill may cost: about a minute for a language model on a CPU.
SHARD_ROWS = 1024


def score(ctx: Context, pool: Snapshot, scorers: Mapping[str, Scorer]) -> Outcome:
    """Score every row of the pool by every scorer; returns the fingerprint of each signal.

    Scorers that need all rows at once come last, each after the signals it reads.
    """
    outcome = score_rows(ctx, pool, {n: s for n, s in scorers.items() if not of_the_pool(s)})
    keys, reused, computed = dict(outcome.keys), outcome.reused, outcome.computed
    start = time.monotonic()
    whole = {n: s for n, s in scorers.items() if of_the_pool(s)}
    signals = {n.removeprefix("signals/"): key for n, key in keys.items()}
    for name in pool_scores.ordered(whole):
        signals[name], done = pool_scores.score(ctx, pool, name, whole[name], signals)
        keys[f"signals/{name}"] = signals[name]
        reused, computed = reused + done * len(pool), computed + (not done) * len(pool)
    seconds = outcome.seconds + time.monotonic() - start
    return Outcome("score", keys, reused, computed, seconds)


def score_rows(ctx: Context, pool: Snapshot, scorers: Mapping[str, Scorer]) -> Outcome:
    """Score every row by the scorers that look at one row at a time.

    Shards are cut from the parts of the samples, so a run that was killed and started again
    computes the same batches and the same values as one that was not. Rows that were scored
    before, by any run on this store, are reused. One process at a time fills a signal.
    """
    start = time.monotonic()
    identities = {
        name: {"scorer": s.name, "version": s.version, **s.identity()}
        for name, s in scorers.items()
    }
    keys = {name: fingerprint(identity) for name, identity in identities.items()}
    reused = computed = 0
    for group in registry.group(scorers):
        tables = {name: SignalTable(ctx.store, name, keys[name]) for name in group.names}
        with ExitStack() as locks:
            for key in sorted({keys[name] for name in group.names}):
                locks.enter_context(ctx.store.lock("signals", key, say=ctx.say))
            done, todo = _fill(ctx, pool, group, tables, identities)
        reused, computed = reused + done, computed + todo
        for warning in group.warnings if todo else ():
            ctx.say(warning)
    for name, key in keys.items():
        ctx.store.point("signals", name, key)
    outcome_keys = {f"signals/{name}": key for name, key in keys.items()}
    return Outcome("score", outcome_keys, reused, computed, time.monotonic() - start)


def _fill(
    ctx: Context,
    pool: Snapshot,
    group: registry.Group,
    tables: Mapping[str, SignalTable],
    identities: Mapping[str, Mapping[str, Any]],
) -> tuple[int, int]:
    """Score what is missing; returns how many values (row x signal) there were and were made."""
    missing = sum(int(pc.sum(_missing(batch, tables)).as_py() or 0) for batch in pool.batches())
    total = len(pool) * len(tables)
    computed = 0
    with ctx.progress(f"score {', '.join(group.names)}", missing) as advance:
        for batch in pool.batches() if missing else ():
            for shard in _shards(batch, tables):
                computed += _score_shard(group, shard, tables, identities, advance)
    return total - computed, computed


def _missing(batch: pa.Table, tables: Mapping[str, SignalTable]) -> pa.Array:
    """Which rows lack a value of some signal. Rows of equal content count once."""
    keys = batch.column(KEY).combine_chunks()
    lacking = np.zeros(len(keys), dtype=bool)
    for table in tables.values():
        lacking |= np.asarray(table.missing(keys))
    first = np.zeros(len(keys), dtype=bool)
    first[np.unique(np.asarray(keys, dtype=object), return_index=True)[1]] = True
    return pa.array(lacking & first)


def _shards(batch: pa.Table, tables: Mapping[str, SignalTable]) -> Iterator[pa.Table]:
    """Blocks of the part in file order, each without the rows that have all their values.

    The borders depend on the part alone, not on what is missing: that keeps values repeatable.
    """
    wanted = _missing(batch, tables)
    for start in range(0, len(batch), SHARD_ROWS):
        shard = batch.slice(start, SHARD_ROWS).filter(wanted.slice(start, SHARD_ROWS))
        if len(shard):
            yield shard


def _score_shard(
    group: registry.Group,
    shard: pa.Table,
    tables: Mapping[str, SignalTable],
    identities: Mapping[str, Mapping[str, Any]],
    advance: Advance,
) -> int:
    keys = shard.column(KEY).combine_chunks()
    values = group.score(shard.combine_chunks().to_batches()[0], advance=advance)
    computed = 0
    for name, table in tables.items():
        wanted = table.missing(keys)
        columns = {KEY: keys, **arrow(values[name])}
        rows = pa.table(columns).filter(wanted)
        if len(rows):
            table.append(rows, identities[name])
            computed += len(rows)
    return computed
