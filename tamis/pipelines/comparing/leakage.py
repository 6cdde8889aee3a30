"""Rows to train on that are copies of held-out rows: what is measured on those is memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tamis import samples
from tamis.numerics.blocked import nearest, unit_rows
from tamis.pipelines import plan, pool_scores
from tamis.pipelines import score as scoring
from tamis.pipelines.columns import Columns
from tamis.pipelines.comparing.table import Line
from tamis.pipelines.context import Context
from tamis.pipelines.evaluate import Heldout
from tamis.pipelines.signals import of
from tamis.scoring.base import Rows
from tamis.scoring.duplicates.exact import digest
from tamis.scoring.duplicates.minhash import DuplicatesMinhash
from tamis.scoring.views import text
from tamis.storage.artifact import Artifact, Maker

KIND, PAIRS = "leaks", "pairs.parquet"
# Raise by hand when the same rows give other pairs.
VERSION = 1
JACCARD, COSINE = 0.7, 0.95
WORDS = {
    "exact": "the same text but for case and spaces",
    "minhash": f"Jaccard similarity of runs of 5 words {JACCARD} or more",
    "semantic": f"cosine {COSINE} or more",
}


@dataclass(frozen=True, slots=True)
class _Sides:
    """The held-out rows, the pool, and the rows of the pool that may be trained on."""

    held: Heldout
    columns: Columns
    usable: np.ndarray

    def rows(self) -> Rows:
        """Held-out rows first, then those of the pool by place; without the ones not usable."""
        count = len(self.held.ids)
        table = self.held.rows(["messages"]).combine_chunks()
        here = [(np.arange(count), batch) for batch in table.to_batches()[:1]]

        def batches() -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
            return chain(here, self._pool(count))

        return Rows(count + len(self.usable), {}, batches)

    def _pool(self, after: int) -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
        for places, batch in pool_scores.batches(self.columns.pool):
            some = self.usable[places]
            yield places[some] + after, batch.filter(pa.array(some))


def leaks(
    ctx: Context, keys: Mapping[str, str], columns: Columns, held: Heldout, mask: np.ndarray
) -> Artifact:
    """Find the rows of the pool that are like a held-out row; an artefact with one row a pair.

    `pairs.parquet`: `heldout` and `id` of a row of the pool, `how` (exact, minhash, or semantic
    where the recipe scores an embedding) and `similarity`; of each row of the pool its most similar
    one each way. Rows of the same content are not among them: they are never trained on. Facts:
    rows on either side by `how`, and `left_out`, those of the same content.
    """
    vectors = _embedding(ctx, keys)
    inputs = {
        "version": [VERSION, DuplicatesMinhash.version],
        "samples": sorted(columns.pool.sources.items()),
        "heldout": held.inputs(),
        "vectors": vectors and keys[f"signals/{vectors}"],
    }

    def make(maker: Maker) -> Mapping[str, Any]:
        known = held.rows(["content_key"])["content_key"].combine_chunks()
        same = pc.is_in(columns.pool.column("content_key"), value_set=known).to_numpy(False)
        sides = _Sides(held, columns, ~same & ~mask)
        found = {"exact": _exact(sides, ctx), "minhash": _minhash(sides, ctx)}
        if vectors is not None:
            found["semantic"] = _semantic(sides, ctx, vectors)
        maker.write_parquet(PAIRS, _table(sides, found))
        by = {how: {"heldout": len(set(h)), "pool": len(p)} for how, (h, p, _) in found.items()}
        return {"by": by, "left_out": int((same & ~mask).sum()), "heldout": len(held.ids)}

    return ctx.store.ensure(KIND, inputs, make, say=ctx.say)[0]


Pairs = tuple[np.ndarray, np.ndarray, np.ndarray]


def _exact(sides: _Sides, ctx: Context) -> Pairs:
    rows, count = sides.rows(), len(sides.held.ids)
    first: dict[bytes, int] = {}
    held, pool = [], []
    with ctx.progress("leakage: equal texts", rows.n) as advance:
        for places, batch in rows.batches():
            for place, messages in zip(
                places.tolist(), samples.decode_messages(batch.column("messages")), strict=True
            ):
                mark = digest(text(messages, "all"))
                if place < count:
                    first.setdefault(mark, place)
                elif mark in first:
                    held.append(first[mark])
                    pool.append(place - count)
            advance(len(places))
    return np.array(held, dtype=np.int64), np.array(pool, dtype=np.int64), np.ones(len(held))


def _minhash(sides: _Sides, ctx: Context) -> Pairs:
    rows, count = sides.rows(), len(sides.held.ids)
    with ctx.progress("leakage: like texts", rows.n) as advance:
        low, high, similarity = DuplicatesMinhash(threshold=JACCARD).links(rows, advance=advance)
    across = (low < count) & (high >= count)
    return _best(low[across], high[across] - count, similarity[across])


def _semantic(sides: _Sides, ctx: Context, name: str) -> Pairs:
    column = f"{name}.vector"
    pool = _matrix(sides.columns.values(column))
    held = sides.held
    at = np.asarray(pc.index_in(held.ids, value_set=held.pool.ids))
    mine = sides.columns if held.pool is sides.columns.pool else _scored(ctx, held, name)
    targets = _matrix(mine.values(column))[at]
    here = np.flatnonzero(sides.usable & np.isfinite(pool).all(axis=1))
    there = np.flatnonzero(np.isfinite(targets).all(axis=1))
    if not len(here) or not len(there):
        return _best(*(np.zeros(0, dtype=np.int64),) * 2, np.zeros(0))
    index, squared = nearest(unit_rows(pool[here]), unit_rows(targets[there]))
    cosine = 1 - squared / 2  # of unit vectors |a - b|^2 = 2 - 2 a . b
    near = cosine >= COSINE
    return _best(there[index[near]], here[near], cosine[near])


def _scored(ctx: Context, held: Heldout, name: str) -> Columns:
    """The held-out rows with their vectors: a file of its own is no part of the pool."""
    scorer = plan.scorers(ctx.recipe, ctx.device)[name]
    outcome = scoring.score(ctx, held.pool, {name: scorer})
    return Columns(ctx.store, held.pool, of(outcome.keys), ctx.say)


def _best(held: np.ndarray, pool: np.ndarray, similarity: np.ndarray) -> Pairs:
    """Of each row of the pool its most similar held-out row, the first on ties."""
    order = np.lexsort((held, -similarity, pool))
    held, pool, similarity = held[order], pool[order], similarity[order]
    first = np.unique(pool, return_index=True)[1]
    return held[first], pool[first], similarity[first]


def _matrix(values: Any) -> np.ndarray:
    return np.asarray(values, dtype=np.float32)


def _embedding(ctx: Context, keys: Mapping[str, str]) -> str | None:
    """The recipe's first score of embeddings, if there is one."""
    named = (n for n, s in ctx.recipe.scores.items() if (s.scorer or n) == "embed")
    return next((name for name in named if f"signals/{name}" in keys), None)


def _table(sides: _Sides, found: Mapping[str, Pairs]) -> pa.Table:
    parts = [
        pa.table(
            {
                "heldout": sides.held.ids.take(pa.array(held)),
                "id": sides.columns.pool.ids.take(pa.array(pool)),
                "how": pa.repeat(how, len(held)),
                "similarity": pa.array(similarity, pa.float64()),
            }
        )
        for how, (held, pool, similarity) in found.items()
    ]
    return pa.concat_tables(parts)


def counted(ctx: Context, found: Artifact, given: Sequence[Line]) -> dict[str, Any]:
    """How many held-out rows have a copy among what each line trains on, mean over seeds: by `how`
    one number a line."""
    table = pq.read_table(found.path / PAIRS)
    facts = found.facts
    hits = [[_hits(ctx, table, done.keys) for done in line.cells] for line in given]
    trained = {
        how: [float(np.mean([seed.get(how, 0) for seed in seeds])) for seeds in hits]
        for how in facts["by"]
    }
    return {"heldout": facts["heldout"], "by": facts["by"], "trained_on": trained}


def _hits(ctx: Context, pairs: pa.Table, keys: Mapping[str, str]) -> dict[str, int]:
    """Held-out rows with a copy among the kept rows of a selection, by `how`."""
    if not len(pairs):
        return {}
    path = ctx.store.get("selections", keys["selection"]).path / "rows.parquet"
    rows = pq.read_table(path, columns=["id", "kept"])
    kept = rows.filter(rows["kept"])["id"].combine_chunks()
    mine = pairs.filter(pc.is_in(pairs["id"], value_set=kept))
    counts = mine.group_by("how").aggregate([("heldout", "count_distinct")])
    names, found = counts["how"].to_pylist(), counts["heldout_count_distinct"].to_pylist()
    return dict(zip(names, found, strict=True))
