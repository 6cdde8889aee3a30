"""Selection: which rows may be picked, the pick itself, and what became of every other row."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from tamis import selectors
from tamis.errors import DataError
from tamis.pipelines.columns import Columns, missing
from tamis.pipelines.context import Context
from tamis.recipe import Budget, Filter, Select
from tamis.selectors import Pool, Selection, Selector, budget
from tamis.storage.artifact import Artifact, Maker

# Raise by hand when the rows that are eligible, or what is stored of a selection, change.
VERSION = 1
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
) -> tuple[Artifact, bool]:
    """Pick a subset of the pool; an artefact with one row for every row of the pool.

    `heldout` marks rows kept for evaluation. The key holds the samples, the signals that were
    used, the method with its options, the budget and the seed.
    """
    method = selectors.build(choice.method, choice.options)
    names = sorted(_used(method, choice, filters, columns))
    inputs = {
        "version": VERSION,
        "method_version": getattr(method, "version", 1),
        "samples": sorted(columns.pool.sources.items()),
        "signals": {n: columns.fingerprint(n) for n in names if columns.fingerprint(n)},
        "select": choice.model_dump(),
        "filters": [f.model_dump() for f in filters],
        "heldout": int(heldout.sum()) and _mask_digest(heldout),
        "seed": ctx.recipe.seed,
    }

    def make(maker: Maker) -> Mapping[str, Any]:
        start = time.monotonic()
        eligible = _eligible(columns, method, choice, filters, heldout)
        picked, costs = _pick(columns, method, choice, eligible, ctx.recipe.seed)
        maker.write_parquet(
            "rows.parquet", _rows(maker.key, choice.method, columns, eligible, picked)
        )
        maker.write_json("curves.json", {n: c.tolist() for n, c in picked.curves.items()})
        return _facts(choice, columns, eligible, picked, costs, time.monotonic() - start)

    return ctx.store.ensure("selections", inputs, make, say=ctx.say)


def _used(method: Selector, choice: Select, filters: list[Filter], columns: Columns) -> set[str]:
    names = set(method.needs()) | {f.column for f in filters}
    if TOKENS in columns.signals:
        names.add(f"{TOKENS}.supervised")
    return names


def _mask_digest(mask: np.ndarray) -> str:
    import hashlib

    return hashlib.blake2b(np.packbits(mask).tobytes(), digest_size=16).hexdigest()


def _eligible(
    columns: Columns,
    method: Selector,
    choice: Select,
    filters: list[Filter],
    heldout: np.ndarray,
) -> Eligible:
    """Apply, in this order: held-out, no trained token, duplicates, filters, missing values."""
    reason = np.full(len(columns.pool), "", dtype=object)

    def drop(rows: np.ndarray, why: str) -> None:
        reason[rows & (reason == "")] = why

    drop(heldout, "held_out")
    if TOKENS in columns.signals:
        drop(~(columns.values(f"{TOKENS}.supervised") > 0), "no_trained_token")
    if choice.drop_duplicates:
        drop(_later_copies(columns, reason == ""), "duplicate")
    for rule in filters:
        values = columns.values(rule.column)
        drop(missing(values), f"null:{rule.column}")
        drop(~_passes(rule, values), f"filter:{rule.column}")
    for name in sorted(method.needs()):
        drop(missing(columns.values(name)), f"null:{name}")
    return Eligible(np.flatnonzero(reason == ""), reason)


def _later_copies(columns: Columns, candidates: np.ndarray) -> np.ndarray:
    """All but the lowest row of each content, over all sources, among the candidates."""
    rows = np.flatnonzero(candidates)
    keys = columns.values("content_key")[rows]
    later = np.zeros(len(columns.pool), dtype=bool)
    later[rows] = True
    later[rows[np.unique(keys, return_index=True)[1]]] = False
    return later


def _passes(rule: Filter, values: np.ndarray) -> np.ndarray:
    if rule.is_in is not None:
        return np.isin(values.astype(object), np.asarray(rule.is_in, dtype=object))
    if values.dtype == object:
        raise DataError(f"filter on {rule.column}: min and max need numbers; use is_in for texts")
    passed = np.ones(len(values), dtype=bool)
    if rule.min is not None:
        passed &= values >= rule.min
    if rule.max is not None:
        passed &= values <= rule.max
    return passed


def _pick(
    columns: Columns, method: Selector, choice: Select, eligible: Eligible, seed: int
) -> tuple[Selection, np.ndarray | None]:
    rows = eligible.rows
    pool = Pool(n=len(rows), columns={n: columns.values(n)[rows] for n in sorted(method.needs())})
    limit, costs = _limit(choice.budget, columns, rows)
    return budget.fit(method, pool, costs, limit, seed=seed), costs


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
    eligible: Eligible,
    picked: Selection,
    costs: np.ndarray | None,
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
        "seconds": seconds,
        **{n: v for n, v in picked.facts.items()},
    }
    if TOKENS in columns.signals:
        for field in ("total", "supervised"):
            values = columns.values(f"{TOKENS}.{field}")[index]
            facts[f"{field}_tokens"] = int(np.nansum(values))
    return facts
