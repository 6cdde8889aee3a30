"""What decided about one row of a selection: the rule, its limits, and the nearest kept row."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tamis import selectors
from tamis.pipelines.reasons import meaning
from tamis.storage.artifact import Artifact
from tamis.storage.catalogue import OpenStore
from tamis.storage.signals import KEY, SignalTable

_PERCENT = ("lowest_percent", "highest_percent")


def rule(store: OpenStore, selection: Artifact, row: Mapping[str, Any]) -> dict[str, Any]:
    """Why the row of a selection (`id`, `content_key`, `reason`) stands as it does: a sentence,
    the choice it was made by, and of each number this was made by the row's value beside those of
    the kept rows."""
    inputs = selection.seal["inputs"]
    return {
        "sentence": _sentence(store, selection, inputs, row),
        "choice": _choice(inputs["select"]),
        "compared": list(_compared(store, selection, inputs, row["id"])),
    }


def _sentence(
    store: OpenStore, selection: Artifact, inputs: Mapping[str, Any], row: Mapping[str, Any]
) -> str:
    kind, _, column = row["reason"].partition(":")
    if kind == "filter":
        rules = [limits(f) for f in inputs["filters"] if f["column"] == column]
        return f"{column} is {_value(store, row['id'], column)}: {'; '.join(rules)}"
    if kind == "null":
        why = _why_none(store, row["id"], column)
        return f"it has no value of {column}" + (f": {why}" if why else "")
    if kind == "duplicate":
        first = store.sql(
            "select min(s.id) id from samples s join selections d using (id) "
            "where d.selection = $key and s.content_key = $content and d.reason != 'duplicate'",
            {"key": selection.key, "content": row["content_key"]},
        ).to_pylist()
        if first and first[0]["id"]:
            return f"it has the same content as {first[0]['id']}, which stands for both"
    return meaning(row["reason"])


def limits(rule: Mapping[str, Any]) -> str:
    """What a filter keeps."""
    said = []
    if rule["min"] is not None:
        said.append(f"at least {rule['min']:g}")
    if rule["max"] is not None:
        said.append(f"at most {rule['max']:g}")
    said += [
        f"the {name.partition('_')[0]} {rule[name]:g} % of the rows left"
        + (f" within {', '.join(rule['within'])}" if rule["within"] else "")
        for name in _PERCENT
        if rule.get(name) is not None
    ]
    if rule["is_in"] is not None:
        said.append(f"one of {', '.join(map(str, rule['is_in']))}")
    return f"the filter keeps {' and '.join(said)}"


def _value(store: OpenStore, sample: str, column: str) -> str:
    found = _field(store, sample, column)
    if isinstance(found, float):
        return f"{found:.4g}"
    return "nothing" if found is None else str(found)


def _why_none(store: OpenStore, sample: str, column: str) -> str | None:
    """The reason that the signal of a column gives, if it gives one."""
    signal, dot, _ = column.partition(".")
    key = store.store.latest("signals").get(signal) if dot else None
    if key is None or "reason" not in SignalTable(store.store, signal, key).schema.names:
        return None
    found = _field(store, sample, f"{signal}.reason")
    return None if found is None else str(found)


def _field(store: OpenStore, sample: str, column: str) -> Any:
    name = ".".join('"' + part.replace('"', '""') + '"' for part in column.split(".", 1))
    rows = store.sql(f"select {name} as value from signals where id = $id", {"id": sample})
    return rows.to_pylist()[0]["value"]


def _choice(choice: Mapping[str, Any]) -> str:
    """The method with all its options, and the budget."""
    method = selectors.build(choice["method"], choice["options"])
    options = {f.name: getattr(method, f.name) for f in dataclasses.fields(method)}
    said = [f"{name} {_short(value)}" for name, value in options.items()]
    budget = next(f"{v:g} {unit}" for unit, v in choice["budget"].items() if v is not None)
    return f"{choice['method']} ({'; '.join([*said, f'budget {budget}'])})"


def _short(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _compared(
    store: OpenStore, selection: Artifact, inputs: Mapping[str, Any], sample: str
) -> Iterator[dict[str, Any]]:
    """The numbers that the selection read: of this row, and the range of the kept rows."""
    rows = store.sql(
        "select l.signal, any_value(l.value) filter (l.id = $id) as value, "
        "quantile_cont(l.value, [0.05, 0.5, 0.95]) filter (s.kept) as kept "
        "from selections s join signals_long l using (id) "
        "where s.selection = $key and l.signal in $names and (s.kept or l.id = $id) "
        "and (l.value is null or isfinite(l.value)) group by 1 order by 1",
        {"id": sample, "key": selection.key, "names": sorted(inputs["signals"])},
    )
    for row in rows.to_pylist():
        if row["kept"] is not None:
            low, middle, high = row["kept"]
            yield {
                "signal": row["signal"],
                "value": row["value"],
                "kept": {"p5": low, "median": middle, "p95": high},
            }


def nearest(store: OpenStore, selection: Artifact, row: Mapping[str, Any]) -> dict[str, Any] | None:
    """The kept row that is most like a row: by the method's own account, else by the cosine of the
    vectors the selection read, else of any vectors the store has. None without vectors.

    Reads the vectors a part at a time: n x d numbers, and no more memory than one part.
    """
    if row.get("nearest_kept") is not None:
        return {
            **_told(store, row["nearest_kept"]),
            "similarity": row["similarity"],
            "by": "method",
        }
    column = _vectors(store, selection)
    if column is None:
        return None
    found = _most_alike(store, selection, column, row)
    if found is None:
        return None
    content, similarity = found
    kept = store.sql(
        "select min(s.id) as id from selections s join samples p using (id) "
        "where s.selection = $key and s.kept and p.content_key = $content",
        {"key": selection.key, "content": content},
    ).to_pylist()[0]["id"]
    return {**_told(store, kept), "similarity": similarity, "by": column}


def _told(store: OpenStore, sample: str) -> dict[str, Any]:
    rows = store.sql("select source, messages from samples where id = $id", {"id": sample})
    found = rows.to_pylist()
    if not found:
        return {"id": sample, "source": None, "messages": []}
    return {"id": sample, "source": found[0]["source"], "messages": turns(found[0]["messages"])}


def turns(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The turns of a sample: who speaks, and the text or the calls."""
    return [{"role": m["role"], "content": m["content"] or m["tool_calls"]} for m in messages]


def _vectors(store: OpenStore, selection: Artifact) -> str | None:
    """The column of vectors to compare rows by."""
    stored = store.store.latest("signals")
    used = selection.seal["inputs"]["signals"]
    columns = [name for name in sorted(used) if "." in name]
    columns += [f"{name}.vector" for name in sorted(stored)]
    for column in columns:
        signal, _, field = column.partition(".")
        key = used.get(column) or stored.get(signal)
        table = SignalTable(store.store, signal, key) if key else None
        if table is None or not table.parts() or field not in table.schema.names:
            continue
        if pa.types.is_fixed_size_list(table.schema.field(field).type):
            return column
    return None


def _most_alike(
    store: OpenStore, selection: Artifact, column: str, row: Mapping[str, Any]
) -> tuple[str, float] | None:
    """The content of the kept row nearest by cosine, other than the row's own."""
    signal, _, field = column.partition(".")
    key = selection.seal["inputs"]["signals"].get(column) or store.store.latest("signals")[signal]
    table = SignalTable(store.store, signal, key)
    by = table.schema.names[0]
    own = row["content_key"] if by == KEY else row["id"]
    kept = store.sql(
        f"select distinct p.{by} as k from selections s join samples p using (id) "
        "where s.selection = $key and s.kept and p.content_key != $content",
        {"key": selection.key, "content": row["content_key"]},
    )["k"].combine_chunks()
    mine = _vector(table, by, field, own)
    if mine is None:
        return None
    best: tuple[str, float] | None = None
    for part in table.parts():
        rows = pq.read_table(part, columns=[by, field])
        rows = rows.filter(pc.is_in(rows[by], value_set=kept))
        values = _matrix(rows[field].combine_chunks())
        if not len(values):
            continue
        norms = np.linalg.norm(values, axis=1) * np.linalg.norm(mine)
        likeness = np.where(norms > 0, values @ mine / np.where(norms > 0, norms, 1), -1.0)
        likeness = np.where(np.isfinite(likeness), likeness, -1.0)
        at = int(likeness.argmax())
        if best is None or likeness[at] > best[1]:
            best = (str(rows[by][at].as_py()), float(likeness[at]))
    if best is None or by == KEY:
        return best
    content = store.sql("select content_key from samples where id = $id", {"id": best[0]})
    return str(content["content_key"][0].as_py()), best[1]


def _vector(table: SignalTable, by: str, field: str, own: str) -> np.ndarray | None:
    for part in table.parts():
        rows = pq.read_table(part, columns=[by, field], filters=[(by, "=", own)])
        if rows.num_rows:
            found = _matrix(rows[field].combine_chunks())[0]
            return found if np.isfinite(found).all() else None
    return None


def _matrix(vectors: pa.Array) -> np.ndarray:
    """Vectors as (n, d) float32; those of rows without one are NaN."""
    width = vectors.type.list_size
    flat = vectors.fill_null([float("nan")] * width) if vectors.null_count else vectors
    values: np.ndarray = flat.flatten().to_numpy(zero_copy_only=False)
    return values.reshape(-1, width).astype(np.float32)
