"""What changed between two releases of a subset, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tamis.numerics.ragged import Ragged
from tamis.pipelines.releases import Release, release
from tamis.storage.artifact import Store
from tamis.storage.signals import SignalTable

# Why a row could not be chosen, beside the reasons of selections.
ABSENT = "not_in_the_pool"


def diff(store: Store, before: str, after: str, *, threshold: float = 0.1) -> dict[str, Any]:
    """What changed between the releases of two runs (see `releases.release`), as JSON-like values.

    Rows are the same when their ids are, or else their contents: a renamed source gives new ids,
    and those are counted under `renamed`. `in` and `out` hold a group for each pair of reasons,
    what the row was before and what it is now (`selected`, `not_in_the_pool`, or why it was
    dropped), with its rows. `settings` are those of the recipes that differ. `signals` tells of
    each signal that was computed anew how many common rows have another value, by more than
    `threshold` standard deviations of the values before.

    Time and memory grow with the pools: some 100 bytes a row, no text is read.
    """
    old, new = release(store, before), release(store, after)
    matched = _match(old.rows, new.rows)
    states = _states(old.rows, new.rows, matched)
    return {
        "before": _about(old),
        "after": _about(new),
        "pool": {
            "common": len(matched[0]),
            "new": len(new.rows) - len(matched[1]),
            "gone": len(old.rows) - len(matched[0]),
            "renamed": int(pc.sum(pc.not_equal(states["id_before"], states["id"])).as_py() or 0),
        },
        **_moved(states, old, new),
        "settings": list(_settings(old.log["settings"], new.log["settings"])),
        "signals": list(_signals(old, new, matched, threshold)),
        "threshold": threshold,
    }


def _about(one: Release) -> dict[str, Any]:
    facts = one.selection.facts
    told = {"run": one.run_id, "recipe": one.log["recipe"], "selection": one.selection.key}
    counted = {n: facts[n] for n in ("method", "pool", "kept", "total_tokens") if n in facts}
    return {**told, **counted}


def _match(old: pa.Table, new: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """The rows that both have, as their numbers in each: by id, then by content, copies in the
    order of their ids."""
    at = pc.index_in(new["id"].combine_chunks(), value_set=old["id"].combine_chunks())
    found = np.flatnonzero(at.is_valid())
    pairs = at.drop_null().to_numpy().astype(np.int64)
    left = np.setdiff1d(np.arange(len(old)), pairs)
    right = np.setdiff1d(np.arange(len(new)), found)
    keys = pa.concat_arrays(
        [
            t["content_key"].combine_chunks().take(pa.array(rows))
            for t, rows in ((old, left), (new, right))
        ]
    )
    codes = pc.dictionary_encode(keys).indices.to_numpy(zero_copy_only=False).astype(np.int64)
    one, other = _named(codes[: len(left)]), _named(codes[len(left) :])
    _, a, b = np.intersect1d(one, other, return_indices=True)
    return np.concatenate([pairs, left[a]]), np.concatenate([found, right[b]])


def _named(codes: np.ndarray) -> np.ndarray:
    """A number for each content and copy: the k-th row of a content has the same everywhere."""
    order = np.argsort(codes, kind="stable")
    ordered = codes[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=-1))
    copies = np.arange(len(codes)) - np.repeat(starts, np.diff([*starts, len(codes)]))
    named = np.empty(len(codes), dtype=np.int64)
    named[order] = ordered * 2**31 + copies
    return named


def _states(old: pa.Table, new: pa.Table, matched: tuple[np.ndarray, np.ndarray]) -> pa.Table:
    """Every row of both pools: what it was and what it is."""
    alone = np.setdiff1d(np.arange(len(old)), matched[0])
    fresh = np.setdiff1d(np.arange(len(new)), matched[1])
    left = np.concatenate([matched[0], alone, np.full(len(fresh), -1)])
    right = np.concatenate([matched[1], np.full(len(alone), -1), fresh])
    before, after = _taken(old, left), _taken(new, right)
    return pa.table(
        {
            "id_before": before["id"],
            "id": pc.coalesce(after["id"], before["id"]),
            "source": pc.coalesce(after["source"], before["source"]),
            "was": pc.fill_null(before["reason"], ABSENT),
            "now": pc.fill_null(after["reason"], ABSENT),
            "kept_before": pc.fill_null(before["kept"], False),
            "kept": pc.fill_null(after["kept"], False),
            "rank_before": before["rank"],
            "rank": after["rank"],
            "row_before": pa.array(left, mask=left < 0),
            "row": pa.array(right, mask=right < 0),
        }
    )


def _taken(table: pa.Table, rows: np.ndarray) -> pa.Table:
    return table.take(pa.array(rows, mask=rows < 0))


def _moved(states: pa.Table, old: Release, new: Release) -> dict[str, Any]:
    """The rows that came in and went out, in groups of like reasons, and those that stayed."""
    was, now = states["kept_before"], states["kept"]
    stayed = states.filter(pc.and_(was, now))
    other = pc.sum(pc.not_equal(stayed["rank_before"], stayed["rank"])).as_py()
    return {
        "in": _groups(states.filter(pc.and_(pc.invert(was), now)), "rank", old, new),
        "out": _groups(states.filter(pc.and_(was, pc.invert(now))), "rank_before", old, new),
        "stay": {
            "rows": len(stayed),
            "other_rank": int(other or 0),
        },
    }


def _groups(rows: pa.Table, rank: str, old: Release, new: Release) -> list[dict[str, Any]]:
    """Rows by their reasons, the largest group first; within one by rank. Where a filter was the
    reason, with what it looks at, before and now."""
    counts = rows.group_by(["was", "now"]).aggregate([([], "count_all")])
    order = [("count_all", "descending"), ("was", "ascending"), ("now", "ascending")]
    found = []
    for group in counts.sort_by(order).to_pylist():
        mine = rows.filter(
            pc.and_(pc.equal(rows["was"], group["was"]), pc.equal(rows["now"], group["now"]))
        ).sort_by(rank)
        names = ["id", "id_before", "source", "rank_before", "rank"]
        shown = mine.select(names).to_pylist()
        told = {"was": group["was"], "now": group["now"], "count": len(shown), "rows": shown}
        for reason in (group["was"], group["now"]):
            kind, _, column = reason.partition(":")
            if kind in ("filter", "null"):
                told["column"] = column
                _add_values(shown, mine, column, old, new)
        found.append(told)
    return found


def _add_values(
    shown: list[dict[str, Any]], rows: pa.Table, column: str, old: Release, new: Release
) -> None:
    """Put the values that a filter looks at beside the rows, where they are single ones."""
    for name, at, one in (("value_before", "row_before", old), ("value", "row", new)):
        signal, dot, _ = column.partition(".")
        if dot and signal not in one.signals:
            continue
        values = one.columns.values(column)
        if isinstance(values, Ragged) or values.ndim > 1:
            continue
        for row, number in zip(shown, rows[at].to_pylist(), strict=True):
            row[name] = None if number is None else _plain(values[number])


def _plain(value: Any) -> Any:
    """A value as JSON has it: NaN is none."""
    found = value.item() if hasattr(value, "item") else value
    return None if found != found else found


def _settings(old: Any, new: Any, at: str = "") -> Iterator[dict[str, Any]]:
    """The settings that differ, by their dotted names."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in dict.fromkeys([*old, *new]):
            yield from _settings(old.get(name), new.get(name), f"{at}.{name}" if at else name)
    elif old != new:
        yield {"setting": at, "before": old, "after": new}


def _signals(
    old: Release, new: Release, matched: tuple[np.ndarray, np.ndarray], threshold: float
) -> Iterator[dict[str, Any]]:
    """What became of each signal that both runs have, where it was computed anew."""
    for name in sorted(set(old.signals) | set(new.signals)):
        if name not in old.signals or name not in new.signals:
            yield {"signal": name, "change": "gone" if name in old.signals else "new"}
        elif old.signals[name] != new.signals[name]:
            yield from _values(old, new, name, matched, threshold)


def _values(
    old: Release, new: Release, name: str, matched: tuple[np.ndarray, np.ndarray], threshold: float
) -> Iterator[dict[str, Any]]:
    schemas = [SignalTable(r.store, name, r.signals[name]).schema.names[1:] for r in (old, new)]
    for field in [field for field in schemas[1] if field in schemas[0]]:
        column = f"{name}.{field}"
        a, b = (r.columns.values(column) for r in (old, new))
        if any(isinstance(v, Ragged) or v.ndim > 1 or v.dtype == object for v in (a, b)):
            continue
        one, other = a[matched[0]].astype(float), b[matched[1]].astype(float)
        spread = float(np.nanstd(a.astype(float))) if np.isfinite(a).any() else 0.0
        both = np.isfinite(one) & np.isfinite(other)
        change = np.where(both, np.abs(other - one), 0.0)
        moved = change > threshold * spread if spread else change > 0
        moved |= np.isfinite(one) != np.isfinite(other)
        yield {
            "signal": column,
            "change": "values",
            "rows": len(one),
            "moved": int(moved.sum()),
            "largest": float(change.max(initial=0.0)),
            "spread": spread,
        }
