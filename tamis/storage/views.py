"""What the SQL views of a store are made of: definitions over its Parquet and JSON files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tamis.storage.artifact import Store

VIEWS = (
    "samples",
    "signals",
    "signals_long",
    "labels",
    "duplicates",
    "selections",
    "kept",
    "dropped",
    "reasons",
    "rejected",
    "refinements",
    "training",
    "picks",
    "runs",
)

# The columns a view has while the store holds nothing for it.
_EMPTY = {
    "samples": "id VARCHAR, content_key VARCHAR, source VARCHAR",
    "selections": "selection VARCHAR, method VARCHAR, id VARCHAR, kept BOOLEAN, rank INTEGER, "
    "gain DOUBLE, reason VARCHAR, nearest_kept VARCHAR, similarity DOUBLE, cluster INTEGER, "
    "repeat INTEGER",
    "rejected": "source VARCHAR, file VARCHAR, line BIGINT, reason VARCHAR, text VARCHAR",
    "refinements": "id VARCHAR, refined_from VARCHAR, source VARCHAR, action VARCHAR, "
    "reason VARCHAR, before VARCHAR, after VARCHAR, candidate VARCHAR, confidences VARCHAR, "
    "method VARCHAR, model VARCHAR, model_identity VARCHAR",
    "signals_long": "id VARCHAR, source VARCHAR, signal VARCHAR, value DOUBLE",
    "labels": "id VARCHAR, source VARCHAR, signal VARCHAR, label VARCHAR",
    "duplicates": "signal VARCHAR, number BIGINT, id VARCHAR, source VARCHAR, "
    "representative BOOLEAN, similarity DOUBLE, size BIGINT",
    "picks": "model VARCHAR, step INTEGER, row_id VARCHAR, total FLOAT, utility FLOAT, "
    "diversity FLOAT, kept BOOLEAN",
    "training": "model VARCHAR, method VARCHAR, seed BIGINT, step BIGINT, nll DOUBLE, loss DOUBLE, "
    "grad_norm DOUBLE, learning_rate DOUBLE, tokens BIGINT, lid DOUBLE, lid_std DOUBLE, "
    "lid_heldout DOUBLE, intruders DOUBLE",
}
RUN_COLUMNS = {
    "run_id": "VARCHAR",
    "recipe": "VARCHAR",
    "status": "VARCHAR",
    "started_utc": "TIMESTAMP",
    "seconds": "DOUBLE",
    "selection": "VARCHAR",
    "baseline": "VARCHAR",
    "stages": "JSON",
    "metrics": "JSON",
    "settings": "JSON",
    "versions": "JSON",
}
# Of one step, in a report of the trainer.
_STEP = (
    "STRUCT(step BIGINT, nll DOUBLE, loss DOUBLE, grad_norm DOUBLE, learning_rate DOUBLE, "
    "tokens BIGINT, lid DOUBLE, lid_std DOUBLE, lid_heldout DOUBLE, intruders DOUBLE)[]"
)
# A report of the trainer has a line a step; the reader's own limit of 16 MB is met by long runs.
_LARGEST_JSON = 1 << 28
_GROUPS = {"group", "representative", "similarity", "size"}
# Of a signal: its fingerprint, the column it is keyed by, the fields to show.
Signal = tuple[str, str, list[pa.Field]]


def of(store: Store) -> list[tuple[str, str]]:
    """The name and the definition of every view, in an order in which they can be made."""
    samples = [store.folder("samples", key) for key in store.latest("samples").values()]
    parts, rejected, refined = (
        [p for folder in samples for p in sorted(folder.glob(f"{name}-*.parquet"))]
        for name in ("part", "rejected", "refinements")
    )
    signals = _signal_fields(store)
    shown = signals if parts else {}
    return [
        ("samples", _union(parts) if parts else _nothing("samples")),
        ("rejected", _union(rejected) if rejected else _nothing("rejected")),
        ("refinements", _union(refined) if refined else _nothing("refinements")),
        ("signals", _wide(store, signals, _columns(parts)) if parts else _nothing("samples")),
        ("signals_long", _long(shown)),
        ("labels", _labels(shown)),
        ("duplicates", _duplicates(shown)),
        ("selections", _selections(store)),
        *_FATES,
        ("training", _training(store)),
        ("picks", _picks(store)),
        ("runs", _runs(store)),
    ]


# What became of the rows of every selection, beside what is known of them.
_FATES = (
    (
        "kept",
        "select s.selection, s.method, s.rank, s.gain, s.repeat, g.* "
        "from selections s join signals g using (id) where s.kept",
    ),
    (
        "dropped",
        "select s.selection, s.method, s.reason, s.nearest_kept, s.similarity, g.* "
        "from selections s join signals g using (id) where not s.kept",
    ),
    (
        "reasons",
        "select selection, method, reason, count(*) as count, "
        "count(*) / sum(count(*)) over (partition by selection) as share "
        "from selections group by 1, 2, 3 order by 1, 4 desc, 3",
    ),
)


def quoted(text: str) -> str:
    """A text as SQL."""
    return "'" + text.replace("'", "''") + "'"


def _signal_fields(store: Store) -> dict[str, Signal]:
    """For each signal: its fingerprint, its key, and its fields but for vectors."""
    found = {}
    for name, fingerprint in store.latest("signals").items():
        parts = sorted(store.folder("signals", fingerprint).glob("part-*.parquet"))
        if parts:
            schema = pq.read_schema(parts[0])
            key, *fields = schema
            shown = [f for f in fields if not pa.types.is_fixed_size_list(f.type)]
            if shown:
                found[name] = (fingerprint, key.name, shown)
    return found


def _columns(parts: Sequence[Path]) -> list[str]:
    """The union of the columns of the samples, in order of appearance."""
    return list(dict.fromkeys(name for part in parts for name in pq.read_schema(part).names))


def _wide(store: Store, signals: Mapping[str, Signal], columns: Sequence[str]) -> str:
    """One row a sample: its scalar columns and one struct a signal."""
    hidden = {"messages", "tools", "extra", *signals}
    shown = [f"s.{_name(c)}" for c in columns if c not in hidden]
    # A column the rows came with that bears a signal's name steps aside, as at ingest.
    shown += [f"s.{_name(c)} as {_name('orig_' + c)}" for c in columns if c in signals]
    joins = []
    for i, (name, (fingerprint, key, fields)) in enumerate(signals.items()):
        struct = ", ".join(f"{quoted(f.name)}: g{i}.{_name(f.name)}" for f in fields)
        shown.append(f"{{{struct}}} as {_name(name)}")
        parts = sorted(store.folder("signals", fingerprint).glob("part-*.parquet"))
        joins.append(f"left join {_files(parts)} g{i} on g{i}.{key} = s.{key}")
    return f"select {', '.join(shown)} from samples s {' '.join(joins)}"


def _long(signals: Mapping[str, Signal]) -> str:
    """One row a sample and number."""
    selects = [
        f"select id, source, {quoted(f'{name}.{f.name}')} as signal, "
        f"{_name(name)}.{_name(f.name)}::double as value from signals"
        for name, (_, _, fields) in signals.items()
        for f in fields
        if pa.types.is_floating(f.type)
        or pa.types.is_integer(f.type)
        or pa.types.is_boolean(f.type)
    ]
    return " union all ".join(selects) if selects else _nothing("signals_long")


def _labels(signals: Mapping[str, Signal]) -> str:
    """One row a sample and label, of every signal that gives lists of names."""
    selects = [
        f"select id, source, {quoted(f'{name}.{f.name}')} as signal, "
        f"unnest({_name(name)}.{_name(f.name)}) as label from signals"
        for name, (_, _, fields) in signals.items()
        for f in fields
        if (pa.types.is_list(f.type) or pa.types.is_large_list(f.type))
        and (pa.types.is_string(f.type.value_type) or pa.types.is_large_string(f.type.value_type))
    ]
    return " union all ".join(selects) if selects else _nothing("labels")


def _duplicates(signals: Mapping[str, Signal]) -> str:
    """One row a member of a group of duplicates, of every signal that groups rows."""
    selects = [
        f"select {quoted(name)} as signal, x.group::bigint as number, id, source, "
        f"x.representative::double = 1 as representative, x.similarity::double as similarity, "
        f"x.size::bigint as size from (select id, source, {_name(name)} as x from signals) "
        "where isfinite(x.group::double)"
        for name, (_, _, fields) in signals.items()
        if {f.name for f in fields} >= _GROUPS
    ]
    return " union all ".join(selects) if selects else _nothing("duplicates")


def _selections(store: Store) -> str:
    files = [a.path / "rows.parquet" for a in store.all("selections")]
    return _union(files) if files else _nothing("selections")


def _training(store: Store) -> str:
    """One row a step of every model the bundled trainer tuned."""
    files = [p for a in store.all("models") if (p := a.path / "train_report.json").is_file()]
    if not files:
        return _nothing("training")
    columns = f"{{method: 'VARCHAR', seed: 'BIGINT', history: '{_STEP}'}}"
    return (
        "select parse_path(filename)[-2] as model, method, seed, unnest(history, recursive := true)"
        f" from read_json({_list(files)}, columns={columns}, filename=true, "
        f"maximum_object_size={_LARGEST_JSON})"
    )


def _picks(store: Store) -> str:
    """One row a candidate and step of every model that was tuned on rows chosen as it learnt."""
    files = [p for a in store.all("models") if (p := a.path / "picks.parquet").is_file()]
    if not files:
        return _nothing("picks")
    return (
        "select parse_path(filename)[-2] as model, * exclude (filename) "
        f"from read_parquet({_list(files)}, filename=true)"
    )


def _runs(store: Store) -> str:
    files = sorted((store.root / "runs").glob("*.json"))
    types = ", ".join(f"{quoted(name)}: {quoted(kind)}" for name, kind in RUN_COLUMNS.items())
    if not files:
        casts = ", ".join(f"null::{kind} as {name}" for name, kind in RUN_COLUMNS.items())
        return f"select {casts} where false"
    return f"select * from read_json({_list(files)}, columns={{{types}}}) order by started_utc"


def _nothing(view: str) -> str:
    columns = (c.strip().rsplit(" ", 1) for c in _EMPTY[view].split(","))
    return f"select {', '.join(f'null::{kind} as {name}' for name, kind in columns)} where false"


def _union(files: Sequence[Path]) -> str:
    return f"select * from {_files(files)}"


def _files(files: Sequence[Path]) -> str:
    return f"read_parquet({_list(files)}, union_by_name=true)"


def _list(files: Sequence[Path]) -> str:
    return f"[{', '.join(quoted(os.fspath(f.resolve())) for f in files)}]"


def _name(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'
