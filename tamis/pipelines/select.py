"""Selection: which rows may be picked, the pick itself, and what became of every other row."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from tamis import selectors
from tamis.errors import DataError
from tamis.numerics.ragged import Ragged
from tamis.pipelines import licences, mixture
from tamis.pipelines.columns import Columns, missing
from tamis.pipelines.context import Context
from tamis.pipelines.filters import passes
from tamis.recipe import Budget, Filter, Select
from tamis.selectors import Pool, Selection, Selector, budget
from tamis.storage.artifact import Artifact, Maker

if TYPE_CHECKING:
    from tamis.pipelines.rounds import Rounds

# Raise by hand when the rows that are eligible, or what is stored of a selection, change.
VERSION = 2
TOKENS = "tokens"


@dataclass(frozen=True, slots=True)
class Eligible:
    """The rows a method may see, and for every other row of the pool the reason why not."""

    rows: np.ndarray
    reason: np.ndarray


def select(
    ctx: Context,
    columns: Columns,
    choice: Select,
    filters: list[Filter],
    heldout: np.ndarray,
    *,
    target: Columns | None = None,
    rounds: Rounds | None = None,
) -> tuple[Artifact, bool]:
    """Pick a subset of the pool; an artefact with one row for every row of the pool.

    `heldout` marks rows kept for evaluation, `target` gives the columns of the rows to resemble,
    `rounds` runs a method that trains between its rounds.
    The key holds the samples, the signals that were
    used, the method with its options, the budget and the seed.
    """
    method = selectors.build(choice.method, choice.options)
    given = inputs(ctx, columns, choice, filters, heldout, target=target, rounds=rounds)

    def make(maker: Maker) -> Mapping[str, Any]:
        start = time.monotonic()
        allowed = licences.allowed(columns, ctx.recipe.licences)
        there = eligible(columns, method, choice, filters, heldout, allowed)
        aside, told = _target_pool(method, target)
        pool = _selector_pool(columns, method, there, aside)
        limit, costs = _limit(choice.budget, columns, there.rows)
        if rounds is None:
            picked = budget.fit(method, pool, costs, limit, seed=ctx.recipe.seed)
        else:
            ids = columns.pool.ids.take(pa.array(there.rows))
            picked = rounds.fit(method, pool, ids, limit, key=maker.key)
        maker.write_parquet("rows.parquet", _rows(maker.key, choice.method, columns, there, picked))
        maker.write_json("curves.json", {n: c.tolist() for n, c in picked.curves.items()})
        seconds = time.monotonic() - start
        return {**_facts(choice, columns, method, there, picked, seconds), **told}

    return ctx.store.ensure("selections", given, make, say=ctx.say)


def inputs(
    ctx: Context,
    columns: Columns,
    choice: Select,
    filters: list[Filter],
    heldout: np.ndarray,
    *,
    target: Columns | None = None,
    rounds: Rounds | None = None,
) -> dict[str, Any]:
    """What determines a selection, for its key; arguments as of `select`. Reads no values."""
    method = selectors.build(choice.method, choice.options)
    names = sorted(used(choice, filters, columns))
    return {
        "version": VERSION,
        "method_version": getattr(method, "version", 1),
        "samples": sorted(columns.pool.sources.items()),
        "signals": {n: columns.fingerprint(n) for n in names if columns.fingerprint(n)},
        "select": choice.model_dump(),
        "filters": [f.model_dump() for f in filters],
        "licences": ctx.recipe.licences,
        "heldout": int(heldout.sum()) and _mask_digest(heldout),
        "target": target and sorted(target.pool.sources.items()),
        "seed": ctx.recipe.seed,
        **({} if rounds is None else {"rounds": rounds.inputs()}),
    }


def used(choice: Select, filters: list[Filter], columns: Columns) -> set[str]:
    """The columns that a selection hangs on."""
    method = selectors.build(choice.method, choice.options)
    names = {*method.needs(), *(name for rule in filters for name in rule.columns)}
    if TOKENS in columns.signals:
        names.add(f"{TOKENS}.supervised")
    return names


def _mask_digest(mask: np.ndarray) -> str:
    import hashlib

    return hashlib.blake2b(np.packbits(mask).tobytes(), digest_size=16).hexdigest()


def eligible(
    columns: Columns,
    method: Selector,
    choice: Select,
    filters: list[Filter],
    heldout: np.ndarray,
    allowed: np.ndarray,
) -> Eligible:
    """Apply, in this order: held-out, licence, no trained token, duplicates, filters, missing
    values."""
    reason = np.full(len(columns.pool), "", dtype=object)

    def drop(rows: np.ndarray, why: str) -> None:
        reason[rows & (reason == "")] = why

    drop(heldout, "held_out")
    drop(~allowed, "licence")
    if TOKENS in columns.signals:
        drop(~(columns.values(f"{TOKENS}.supervised") > 0), "no_trained_token")
    if choice.drop_duplicates:
        drop(_later_copies(columns, reason == ""), "duplicate")
    for rule in filters:
        values = columns.values(rule.column)
        drop(missing(values), f"null:{rule.column}")
        drop(~passes(rule, columns, reason == ""), f"filter:{rule.column}")
    kinds = method.may_lack() if hasattr(method, "may_lack") else frozenset()
    for name in sorted(method.needs() - kinds):
        values = columns.values(name)
        # A row may have no label, and the methods know what to do with it; a list of scores is
        # a value only when it is not empty.
        if not (isinstance(values, Ragged) and values.values.dtype == object):
            drop(missing(values), f"null:{name}")
    return Eligible(np.flatnonzero(reason == ""), reason)


def _later_copies(columns: Columns, candidates: np.ndarray) -> np.ndarray:
    """All but the lowest row of each content, over all sources, among the candidates."""
    rows = np.flatnonzero(candidates)
    keys = columns.values("content_key")[rows]
    later = np.zeros(len(columns.pool), dtype=bool)
    later[rows] = True
    later[rows[np.unique(keys, return_index=True)[1]]] = False
    return later


def _target_pool(method: Selector, target: Columns | None) -> tuple[Pool | None, dict[str, int]]:
    """The rows to resemble, without those that lack a value, and how many there are."""
    if target is None:
        return None, {}
    values = {name: target.values(name) for name in sorted(method.target_needs())}
    lacking = np.zeros(len(target.pool), dtype=bool)
    for column in values.values():
        lacking |= missing(column)
    rows = np.flatnonzero(~lacking)
    pool = Pool(len(rows), {name: column[rows] for name, column in values.items()})
    return pool, {"target_rows": len(rows), "target_dropped": int(lacking.sum())}


def _selector_pool(
    columns: Columns, method: Selector, eligible: Eligible, target: Pool | None
) -> Pool:
    rows = eligible.rows
    names = sorted(method.needs())
    tables = [table for name in names if (table := columns.labels(name)) is not None]
    labels = Pool(len(tables[0]["name"]), tables[0]) if tables else None
    values = {name: columns.values(name)[rows] for name in names}
    return Pool(len(rows), values, target, labels)


def _limit(wanted: Budget, columns: Columns, rows: np.ndarray) -> tuple[int, np.ndarray | None]:
    """The budget as a number and the cost of each row; no costs means that rows are counted."""
    if wanted.rows is not None:
        return wanted.rows, None
    if wanted.percent is not None:
        # Rounded first: 20 % of 1,990 is 398, whatever the binary fraction says.
        return int(round(len(rows) * wanted.percent / 100, 9)), None
    field, limit = (
        ("total", wanted.tokens)
        if wanted.tokens is not None
        else ("supervised", wanted.supervised_tokens)
    )
    if TOKENS not in columns.signals:
        raise DataError(
            "a budget in tokens needs to know the tokenizer: name a model in tune:, "
            "or add a score called tokens"
        )
    return int(limit or 0), columns.values(f"{TOKENS}.{field}")[rows].astype(np.int64)


def _rows(
    key: str, method: str, columns: Columns, eligible: Eligible, picked: Selection
) -> pa.Table:
    """One row for every sample of the pool: kept or not, when, and why."""
    n = len(columns.pool)
    ids = columns.pool.ids
    index = eligible.rows[picked.index]
    rank = np.full(n, -1, dtype=np.int32)
    rank[index] = np.arange(len(index))
    gain = np.full(n, np.nan)
    gain[index] = picked.gain
    repeat = np.zeros(n, dtype=np.int32)
    repeat[index] = mixture.shown(picked)
    reason = eligible.reason.copy()
    reason[eligible.rows] = picked.rows.get("reason", np.full(len(eligible.rows), "not_selected"))
    reason[index] = "selected"
    return pa.table(
        {
            "selection": pa.repeat(key, n),
            "method": pa.repeat(method, n),
            "id": ids,
            "kept": rank >= 0,
            "rank": pa.array(rank, mask=rank < 0),
            "gain": pa.array(gain, from_pandas=True),
            "reason": pa.array(reason.tolist(), pa.string()),
            "nearest_kept": _nearest(picked, eligible.rows, ids),
            "similarity": _spread(picked, "similarity", eligible.rows, n, pa.float64()),
            "cluster": _spread(picked, "cluster", eligible.rows, n, pa.int32()),
            "repeat": pa.array(repeat, mask=repeat == 0),
        }
    )


def _nearest(picked: Selection, rows: np.ndarray, ids: pa.Array) -> pa.Array:
    """The id of the nearest kept row, where the method knows it."""
    at = np.full(len(ids), -1, dtype=np.int64)
    if "nearest_kept" in picked.rows:
        near = np.asarray(picked.rows["nearest_kept"])
        at[rows] = np.where(near >= 0, rows[np.maximum(near, 0)], -1)
    return ids.take(pa.array(at, mask=at < 0))


def _spread(picked: Selection, name: str, rows: np.ndarray, n: int, kind: pa.DataType) -> pa.Array:
    """Values of the eligible rows as a column of the whole pool, null elsewhere."""
    if name not in picked.rows:
        return pa.nulls(n, kind)
    values = np.full(n, np.nan)
    values[rows] = picked.rows[name]
    return pa.array(values, from_pandas=True).cast(kind)


def _facts(
    choice: Select,
    columns: Columns,
    method: Selector,
    eligible: Eligible,
    picked: Selection,
    seconds: float,
) -> dict[str, Any]:
    names, counts = np.unique(eligible.reason[eligible.reason != ""], return_counts=True)
    index = eligible.rows[picked.index]
    facts: dict[str, Any] = {
        "method": choice.method,
        "pool": len(columns.pool),
        "eligible": len(eligible.rows),
        "dropped": {str(n): int(c) for n, c in zip(names, counts, strict=True)},
        "kept": len(picked.index),
        "rows_shown": int(mixture.shown(picked).sum()),
        "seconds": seconds,
        **picked.facts,
    }
    for name in sorted(method.needs()):
        if columns.labels(name) is not None:
            facts[f"made_by.{name}"] = columns.scorer(name)
    if TOKENS in columns.signals:
        for field in ("total", "supervised"):
            values = columns.values(f"{TOKENS}.{field}")[index]
            facts[f"{field}_tokens"] = int(np.nansum(values * mixture.shown(picked)))
    if "licence" in facts["dropped"]:
        facts["licences_refused"] = licences.refused(columns, eligible.reason == "licence")
    if picked.groups:
        counted = TOKENS in columns.signals
        tokens = columns.values(f"{TOKENS}.total")[eligible.rows] if counted else None
        facts["mixture"] = mixture.groups(picked, choice.budget.unit, tokens)
    return facts
