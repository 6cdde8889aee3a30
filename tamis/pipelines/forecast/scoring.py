"""How much scoring there is to do: counted from the store, timed on a few rows."""

from __future__ import annotations

import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tamis.language.load import cached
from tamis.language.tally import Tally, counted
from tamis.pipelines import engines
from tamis.pipelines.context import Context
from tamis.pipelines.forecast.figures import Work
from tamis.pipelines.pool_scores import arrow
from tamis.pipelines.shards import Job, Shard
from tamis.recipe import Engine, Model
from tamis.scoring.base import Scorer
from tamis.storage.signals import KEY

DONE = "done for the plan"
# Up to so many rows everything is counted, and what needs no model is computed for the plan; above,
# so many are counted and the rest is taken to be like them.
COUNTED = 20_000
# A calibration takes about so many seconds, and so many rows.
_SECONDS = 4.0
_SERVER = "not timed: a server answers"
_FEWEST, _MOST = 4, 256


@dataclass(frozen=True, slots=True)
class Timing:
    """What some rows cost: their number, what models read, seconds, and bytes on disk."""

    rows: int
    read: Tally
    seconds: float
    bytes: int

    def seconds_of(self, rows: int, read: Tally) -> float:
        """The time of more rows like these: by tokens where models read some, else by rows."""
        if self.read.tokens and read.tokens:
            return self.seconds / self.read.tokens * read.tokens
        return self.seconds / self.rows * rows

    @property
    def told(self) -> str:
        """What was timed, for people."""
        tokens = f", {self.read.tokens:,} tokens" if self.read.tokens else ""
        return f"timed on {self.rows:,} rows{tokens}"


def scored(ctx: Context, job: Job, there: pa.Array | None = None) -> Work:
    """The work of a job of row and pass scorers, in the shadow store `ctx`.

    What needs no model is done there, so that later stages can be counted by its values. `there`
    are contents that have values by the time the job runs.
    """
    shards = [s for shard in job.todo() if (s := _without(job, shard, there)) is not None]
    rows = sum(len(shard.rows) for shard in shards)
    computed = sum(int(mask.sum()) for s in shards for mask in s.lacking.values())
    work = Work("score", ", ".join(job.scorers), len(job.rows) * len(job.scorers) - computed)
    work.computed, work.rows = computed, rows
    if not shards:
        return work
    if by_rules(job.scorers) and (rows <= COUNTED or "tokens" in _kinds(job)):
        return _done(ctx, job, shards, work)
    why = untimed(job.scorers)
    if why is not None:
        work.how, work.exact = why, why == _SERVER
        return work
    timing = calibrated(job, shards)
    work.read, work.exact = _read(job, shards, timing)
    work.seconds = timing.seconds_of(rows, work.read)
    work.bytes = round(timing.bytes / timing.rows * rows)
    work.how = timing.told
    return work


def by_rules(scorers: Mapping[str, Scorer]) -> bool:
    """Whether no scorer among these runs a model. A counter of tokens has one by name only."""
    return all(s.name == "tokens" or not hasattr(s, "device") for s in scorers.values())


def untimed(scorers: Mapping[str, Scorer]) -> str | None:
    """Why scorers cannot be tried here, if they cannot."""
    for scorer in scorers.values():
        model = getattr(scorer, "model", None)
        if isinstance(model, Model) and model.endpoint is not None:
            return _SERVER
        if not cached(model):
            return "not timed: the model is not on this machine yet"
    return None


def _kinds(job: Job) -> set[str]:
    return {scorer.name for scorer in job.scorers.values()}


def _without(job: Job, shard: Shard, there: pa.Array | None) -> Shard | None:
    """A shard without the rows of given contents; None when no row is left."""
    if there is None:
        return shard
    keys = job.samples(shard).column(KEY).combine_chunks()
    left = ~np.asarray(pc.is_in(keys, value_set=there))
    if not left.any():
        return None
    lacking = {name: mask[left] for name, mask in shard.lacking.items()}
    return Shard(shard.number, shard.block, shard.rows[left], lacking)


def _done(ctx: Context, job: Job, shards: Sequence[Shard], work: Work) -> Work:
    """The work itself, in the shadow store."""
    before = _bytes(job)
    start = time.monotonic()
    with ctx.progress(f"plan: {work.what}", work.rows) as advance:
        engines.run(Engine(name="local", workers=1, gpus=0), job, shards, advance)
    work.seconds, work.how = time.monotonic() - start, DONE
    work.bytes = _bytes(job) - before
    return work


def _bytes(job: Job) -> int:
    folders = [job.store.folder("signals", key) for key in job.keys.values()]
    files = [p for f in folders for p in f.glob("*") if p.is_file() and not p.is_symlink()]
    return sum(path.stat().st_size for path in files)


def calibrated(job: Job, shards: Sequence[Shard]) -> Timing:
    """Score a few rows by the job's own scorers: first some to load and warm up what they need,
    then as many as a few seconds take, evenly among the rows of some shards."""
    places = np.unique(np.linspace(0, len(shards) - 1, 4).astype(int))
    table = pa.concat_tables([job.samples(shards[i]) for i in places])
    rows = np.unique(np.linspace(0, len(table) - 1, min(_MOST, len(table))).astype(int))
    batch = table.take(pa.array(rows)).combine_chunks().to_batches()[0]
    first = _spaced(batch, _FEWEST)
    job.group.score(first, advance=_ignore)
    once = _timed(job, first)
    wanted = int(_SECONDS / max(once.seconds / once.rows, 1e-9))
    return _timed(job, _spaced(batch, max(_FEWEST, min(wanted, _MOST))))


def _timed(job: Job, batch: pa.RecordBatch) -> Timing:
    start = time.monotonic()
    with counted() as read:
        found = job.group.score(batch, advance=_ignore)
    return Timing(
        len(batch),
        read,
        time.monotonic() - start,
        sum(disk(columns, len(batch)) for columns in found.values()),
    )


def disk(columns: Mapping[str, Any], rows: int) -> int:
    """Bytes that columns of a signal take: as Parquet, and vectors once more as a matrix."""
    out = io.BytesIO()
    pq.write_table(pa.table(arrow(columns)), out)
    vectors = sum(v.shape[1] * 4 for v in columns.values() if v.ndim == 2)
    return out.tell() + vectors * rows


def _spaced(batch: pa.RecordBatch, n: int) -> pa.RecordBatch:
    """About n rows, evenly spaced."""
    return batch.take(pa.array(np.unique(np.linspace(0, len(batch) - 1, n).astype(int))))


def _read(job: Job, shards: Sequence[Shard], timing: Timing) -> tuple[Tally, bool]:
    """What models would read, and whether it was counted to the end."""
    total, seen, rows = Tally(), 0, sum(len(s.rows) for s in shards)
    for shard in shards:
        found = job.group.reads(job.samples(shard).combine_chunks().to_batches()[0])
        if found is None:
            return scaled(timing.read, rows / timing.rows), False
        total.add(found)
        seen += len(shard.rows)
        if seen >= COUNTED:
            break
    return (total, True) if seen == rows else (scaled(total, rows / seen), False)


def scaled(read: Tally, factor: float) -> Tally:
    """A tally of more or fewer rows like those counted."""
    return Tally(*(round(n * factor) for n in (read.passes, read.tokens, read.written)))


def _ignore(_: int) -> None:
    pass
