"""The tables of a refined version: its samples, and what was changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from tamis.samples import EXTRA, MESSAGES, sample_id

# What became of one content, kept while a version is being made.
OUTCOMES = pa.schema(
    [
        ("content_key", pa.string()),
        ("action", pa.string()),
        ("reason", pa.string()),
        ("new_key", pa.string()),
        ("messages", MESSAGES),
        ("before", pa.string()),
        ("after", pa.string()),
        ("candidate", pa.string()),
        ("confidences", pa.string()),
    ]
)
# One row for every row that was looked at. `refined_from` is the id it had before; `confidences`
# are JSON.
REFINEMENTS = pa.schema(
    [
        ("id", pa.string()),
        ("refined_from", pa.string()),
        ("source", pa.string()),
        ("action", pa.string()),
        ("reason", pa.string()),
        ("before", pa.string()),
        ("after", pa.string()),
        ("candidate", pa.string()),
        ("confidences", pa.string()),
        ("method", pa.string()),
        ("model", pa.string()),
        ("model_identity", pa.string()),
    ]
)
# What the samples of a refined version have beside those they were made from.
FROM, ACTION, REASON = "refined_from", "refine_action", "refine_reason"
Outcomes = Mapping[str, Mapping[str, Any]]


def refined(
    table: pa.Table,
    standing: np.ndarray,
    looked: np.ndarray,
    outcomes: Outcomes,
    taken: Counter[str],
) -> pa.Table:
    """The samples of a part with the new answers, in their order; counts new contents in `taken`.

    Changed rows get the names of their new content, and `refined_from`, the content key they had;
    all others keep every value. `refine_action` and `refine_reason` tell of all.
    """
    values = {name: table.column(name).to_pylist() for name in ("id", "content_key", "source")}
    occurrence = table.column("occurrence").to_pylist()
    found = _of_rows(values["content_key"], looked, outcomes)
    before: list[str | None] = [None] * table.num_rows
    changed = [i for i, o in enumerate(found) if o is not None and o["new_key"] is not None]
    messages = table.column("messages").combine_chunks()
    place = np.arange(table.num_rows)
    new = []
    for i in changed:
        outcome = found[i] or {}
        before[i], key = values["content_key"][i], outcome["new_key"]
        occurrence[i], taken[key] = taken[key], taken[key] + 1
        values["content_key"][i] = key
        values["id"][i] = sample_id(values["source"][i], key, occurrence[i])
        place[i] = table.num_rows + len(new)
        new.append(outcome["messages"])
    both = pa.concat_arrays([messages, pa.array(new, messages.type)])
    arrays = {
        "id": pa.array(values["id"], pa.string()),
        "content_key": pa.array(values["content_key"], pa.string()),
        "occurrence": pa.array(occurrence, pa.int32()),
        "duplicate": pa.array([n > 0 for n in occurrence], pa.bool_()),
        "messages": both.take(pa.array(place)),
        FROM: pa.array(before, pa.string()),
        ACTION: pa.array([_action(o, s) for o, s in zip(found, standing, strict=True)]),
        REASON: pa.array([o["reason"] if o else None for o in found], pa.string()),
    }
    for name, array in arrays.items():
        at = table.schema.get_field_index(name)
        if at < 0:
            table = table.add_column(_end(table), name, array)
        else:
            table = table.set_column(at, pa.field(name, array.type), array)
    return table


def refinements(
    table: pa.Table,
    new: pa.Table,
    looked: np.ndarray,
    outcomes: Outcomes,
    provenance: Mapping[str, str],
) -> pa.Table:
    """What was done to each row of a part that was looked at: rows of `REFINEMENTS`."""
    found = _of_rows(table.column("content_key").to_pylist(), looked, outcomes)
    columns = [new.column("id"), table.column("id"), table.column("source"), new.column(ACTION)]
    named = zip(*(c.to_pylist() for c in columns), found, strict=True)
    texts = ("reason", "before", "after", "candidate", "confidences")
    rows = [
        {
            "id": now,
            "refined_from": was,
            "source": source,
            "action": action,
            **{name: outcome[name] for name in texts},
            **provenance,
        }
        for now, was, source, action, outcome in named
        if outcome is not None
    ]
    return pa.Table.from_pylist(rows, REFINEMENTS)


def _end(table: pa.Table) -> int:
    """Where a column that rows came with stands: before `extra`, which is the last."""
    at: int = table.schema.get_field_index(EXTRA)
    return at if at >= 0 else table.num_columns


def _of_rows(
    keys: list[str], looked: np.ndarray, outcomes: Outcomes
) -> list[Mapping[str, Any] | None]:
    """The outcome of each row; None where it was not looked at."""
    return [outcomes[k] if seen else None for k, seen in zip(keys, looked.tolist(), strict=True)]


def _action(outcome: Mapping[str, Any] | None, standing: str) -> str:
    return (outcome or {}).get("action") or standing
