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
from tamis.scoring.duplicates import groups
from tamis.scoring.duplicates.exact import digest
from tamis.scoring.duplicates.minhash import DuplicatesMinhash
from tamis.scoring.duplicates.semantic import components
from tamis.scoring.views import text
from tamis.storage.artifact import Artifact, Maker

KIND, PAIRS = "leaks", "pairs.parquet"
# Raise by hand when the same rows give other pairs.
VERSION = 2
JACCARD, COSINE = 0.7, 0.95
# From so many held-out rows on, and above so many of the pool, rows that are alike have a form in
# common, such as a template, and are no copies of one another.
FORM_HELD, FORM_POOL = 3, 10
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
    where the recipe scores an embedding), `similarity`, and whether the two are of one `form`: in a
    group of rows linked by likeness that has three held-out rows or more and more than ten of the
    pool. Of each row of the pool there is its most similar one each way. Rows of the same content
    are not among them: they are never trained on. Facts: by `how` the rows on either side that are
    not of one form and the held-out rows that are, and `left_out`, those of the same content.
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
        by = {how: pairs.counts() for how, pairs in found.items()}
        return {"by": by, "left_out": int((same & ~mask).sum()), "heldout": len(held.ids)}

    return ctx.store.ensure(KIND, inputs, make, say=ctx.say)[0]


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Places of held-out rows and of rows of the pool, how similar, and whether of one form; and
    how many held-out rows have a form in common with many."""

    held: np.ndarray
    pool: np.ndarray
    similarity: np.ndarray
    form: np.ndarray
    formed: int = 0

    def counts(self) -> dict[str, int]:
        """How many rows of either side are alike, and how many held-out rows only in form."""
        held = len(np.unique(self.held[~self.form]))
        return {"heldout": held, "pool": int((~self.form).sum()), "form": self.formed}


def _exact(sides: _Sides, ctx: Context) -> _Pairs:
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
    places = (np.array(side, dtype=np.int64) for side in (held, pool))
    return _Pairs(*places, np.ones(len(held)), np.zeros(len(held), dtype=bool))


def _minhash(sides: _Sides, ctx: Context) -> _Pairs:
    rows, count = sides.rows(), len(sides.held.ids)
    with ctx.progress("leakage: like texts", rows.n) as advance:
        low, high, similarity = DuplicatesMinhash(threshold=JACCARD).links(rows, advance=advance)
    group = groups.components(rows.n, low, high)
    crowded = _crowded(group[:count], group[count:], rows.n)
    across = (low < count) & (high >= count)
    low, high = low[across], high[across]
    return _best(low, high - count, similarity[across], crowded, group[:count], group[low])


def _semantic(sides: _Sides, ctx: Context, name: str) -> _Pairs:
    column = f"{name}.vector"
    pool = _matrix(sides.columns.values(column))
    held = sides.held
    at = np.asarray(pc.index_in(held.ids, value_set=held.pool.ids))
    mine = sides.columns if held.pool is sides.columns.pool else _scored(ctx, held, name)
    targets = _matrix(mine.values(column))[at]
    here = np.flatnonzero(sides.usable & np.isfinite(pool).all(axis=1))
    there = np.flatnonzero(np.isfinite(targets).all(axis=1))
    if not len(here) or not len(there):
        none = np.zeros(0, dtype=np.int64)
        return _Pairs(none, none, np.zeros(0), none.astype(bool))
    index, squared = nearest(unit_rows(pool[here]), unit_rows(targets[there]))
    cosine = 1 - squared / 2  # of unit vectors |a - b|^2 = 2 - 2 a . b
    near = cosine >= COSINE
    index, group = index[near], components(targets[there], COSINE)
    crowded = _crowded(group, group[index], len(there))
    return _best(there[index], here[near], cosine[near], crowded, group, group[index])


def _crowded(held: np.ndarray, pool: np.ndarray, count: int) -> np.ndarray:
    """Which of `count` groups have so many rows of either side that what is alike is their form."""
    sizes = (np.bincount(side, minlength=count) for side in (held, pool))
    many_held, many_pool = next(sizes) >= FORM_HELD, next(sizes) > FORM_POOL
    crowded: np.ndarray = many_held & many_pool
    return crowded


def _scored(ctx: Context, held: Heldout, name: str) -> Columns:
    """The held-out rows with their vectors: a file of its own is no part of the pool."""
    scorer = plan.scorers(ctx.recipe, ctx.device)[name]
    outcome = scoring.score(ctx, held.pool, {name: scorer})
    return Columns(ctx.store, held.pool, of(outcome.keys), ctx.say)


def _best(
    held: np.ndarray,
    pool: np.ndarray,
    similarity: np.ndarray,
    crowded: np.ndarray,
    group: np.ndarray,
    of: np.ndarray,
) -> _Pairs:
    """Of each row of the pool its most similar held-out row, the first on ties. `group` is that of
    each held-out row, `of` that of each pair."""
    order = np.lexsort((held, -similarity, pool))
    order = order[np.unique(pool[order], return_index=True)[1]]
    formed = int(crowded[group].sum())
    return _Pairs(held[order], pool[order], similarity[order], crowded[of[order]], formed)


def _matrix(values: Any) -> np.ndarray:
    return np.asarray(values, dtype=np.float32)


def _embedding(ctx: Context, keys: Mapping[str, str]) -> str | None:
    """The recipe's first score of embeddings, if there is one."""
    named = (n for n, s in ctx.recipe.scores.items() if (s.scorer or n) == "embed")
    return next((name for name in named if f"signals/{name}" in keys), None)


def _table(sides: _Sides, found: Mapping[str, _Pairs]) -> pa.Table:
    parts = [
        pa.table(
            {
                "heldout": sides.held.ids.take(pa.array(pairs.held)),
                "id": sides.columns.pool.ids.take(pa.array(pairs.pool)),
                "how": pa.repeat(how, len(pairs.held)),
                "similarity": pa.array(pairs.similarity, pa.float64()),
                "form": pa.array(pairs.form, pa.bool_()),
            }
        )
        for how, pairs in found.items()
    ]
    return pa.concat_tables(parts)


def counted(ctx: Context, found: Artifact, given: Sequence[Line]) -> dict[str, Any]:
    """How many held-out rows have a copy among what each line trains on, mean over seeds: by `how`
    one number a line."""
    table = pq.read_table(found.path / PAIRS)
    table = table.filter(pc.invert(table["form"]))
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
