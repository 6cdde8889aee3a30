"""Scoring: fill the signals a recipe names, computing only the rows that have no value yet."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tamis.pipelines.context import Context, Outcome
from tamis.pipelines.pool import Snapshot
from tamis.pipelines.pool_scores import arrow
from tamis.scoring import registry
from tamis.scoring.base import Advance, Scorer
from tamis.storage.signals import KEY, SignalTable, fingerprint


class Rows(Protocol):
    """Samples to score: a pool, or a part of one."""

    def __len__(self) -> int:
        """How many rows."""
        ...

    def batches(self) -> Iterator[pa.Table]:
        """The samples a part at a time, with what a scorer reads."""
        ...


# A shard is what a kill may cost: about a minute for a language model on a CPU.
SHARD_ROWS = 1024


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
    identities = {name: _identity([s[name] for s in scorers]) for name in scorers[0]}
    keys = {name: fingerprint(identity) for name, identity in identities.items()}
    reused = computed = 0
    for rows, own in zip(folds, scorers, strict=True):
        for group in registry.group(own):
            tables = {name: SignalTable(ctx.store, name, keys[name]) for name in group.names}
            with ExitStack() as locks:
                for key in sorted({keys[name] for name in group.names}):
                    locks.enter_context(ctx.store.lock("signals", key, say=ctx.say))
                done, todo = _fill(ctx, rows, group, tables, identities)
            reused, computed = reused + done, computed + todo
            for warning in group.warnings if todo else ():
                ctx.say(warning)
    for name, key in keys.items():
        ctx.store.point("signals", name, key)
    outcome_keys = {f"signals/{name}": key for name, key in keys.items()}
    return Outcome("score", outcome_keys, reused, computed, time.monotonic() - start)


def _identity(scorers: Sequence[Scorer]) -> dict[str, Any]:
    """What determines a signal: its scorer, or those of all folds."""
    all_of = [{"scorer": s.name, "version": s.version, **s.identity()} for s in scorers]
    return all_of[0] if len(all_of) == 1 else {"scorer": scorers[0].name, "folds": all_of}


def _fill(
    ctx: Context,
    pool: Rows,
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
