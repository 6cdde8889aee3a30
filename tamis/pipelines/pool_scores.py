"""Signals that need all rows at once: stored for exactly this pool, in the order they read each
other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any

import numpy as np
import pyarrow as pa

from tamis.errors import RecipeError
from tamis.pipelines.columns import Columns
from tamis.pipelines.context import Context
from tamis.pipelines.pool import Snapshot
from tamis.scoring.base import Columns as Values
from tamis.scoring.base import PoolScorer, Rows
from tamis.storage.signals import ID, SignalTable, fingerprint

# Raise by hand when what is stored of such a signal changes.
VERSION = 1


def ordered(scorers: Mapping[str, PoolScorer]) -> list[str]:
    """The names so that each comes after those it reads. Raises `RecipeError` for a circle."""
    # Without a dot it is a column of the samples, whatever scores there are.
    reads = {
        name: {c.partition(".")[0] for c in s.needs() if "." in c} & set(scorers)
        for name, s in scorers.items()
    }
    try:
        return list(TopologicalSorter(reads).static_order())
    except CycleError as error:
        circle = " -> ".join(error.args[1])
        raise RecipeError(f"these scores need each other in a circle: {circle}") from error


def score(
    ctx: Context, pool: Snapshot, name: str, scorer: PoolScorer, signals: Mapping[str, str]
) -> tuple[str, bool]:
    """Score the pool by one scorer; returns the fingerprint, and whether it was stored before.

    The fingerprint holds the samples and the signals that were read, so another pool has another.
    """
    stored = ctx.store.latest("signals")
    columns = Columns(ctx.store, pool, {**stored, **signals}, ctx.say)
    needs = sorted(scorer.needs())
    told = identity(columns, scorer)
    key = fingerprint(told)
    table = SignalTable(ctx.store, name, key)
    with ctx.store.lock("signals", key, say=ctx.say):
        done = bool(table.parts())
        if not done:
            given = {column: columns.values(column) for column in needs}
            rows = Rows(len(pool), given, lambda: batches(pool))
            with ctx.progress(f"score {name}", len(pool)) as advance:
                found = scorer.score_pool(rows, advance=advance)
            labels = pa.table(arrow(found.labels)) if found.labels else None
            values = pa.table({ID: pool.ids, **arrow(found.columns)})
            table.write(values, labels, {**told, "facts": dict(found.facts)})
            if found.facts:
                ctx.say(f"{name}: " + ", ".join(f"{k} {v}" for k, v in found.facts.items()))
            for warning in getattr(scorer, "warnings", ()):
                ctx.say(warning)
    ctx.store.point("signals", name, key)
    return key, done


def identity(columns: Columns, scorer: PoolScorer) -> dict[str, Any]:
    """What determines the signal of a scorer that reads these columns."""
    return {
        "scorer": scorer.name,
        "version": [VERSION, scorer.version],
        **scorer.identity(),
        "samples": sorted(columns.pool.sources.items()),
        "reads": {column: columns.fingerprint(column) for column in sorted(scorer.needs())},
    }


def arrow(columns: Values) -> dict[str, pa.Array]:
    """Numpy columns as Arrow: NaN and None become null, a matrix becomes fixed-size lists, objects
    texts or lists of texts."""
    arrays: dict[str, Any] = {}
    for name, values in columns.items():
        if values.ndim == 2:
            flat = pa.array(np.ascontiguousarray(values, dtype=np.float32).reshape(-1))
            arrays[name] = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
        elif values.dtype == object:
            arrays[name] = pa.array(values.tolist(), _object_type(values))
        else:
            arrays[name] = pa.array(values, from_pandas=True)
    return arrays


def _object_type(values: np.ndarray) -> pa.DataType:
    """Texts, or lists of texts or of numbers; a scorer gives one kind, whatever the batch."""
    lists = [v for v in values.tolist() if isinstance(v, (list, tuple))]
    if not lists:
        return pa.string()
    items = [item for row in lists for item in row]
    if not items:
        return pa.list_(pa.null())
    return pa.list_(pa.string() if isinstance(items[0], str) else pa.float64())


def batches(pool: Snapshot) -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
    """The samples as they lie in the files, with the number each row has in the pool."""
    place = np.empty(len(pool), dtype=np.int64)
    place[pool.order] = np.arange(len(pool))
    start = 0
    for table in pool.batches():
        for batch in table.to_batches():
            yield place[start : start + len(batch)], batch
            start += len(batch)
