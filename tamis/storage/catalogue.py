"""The store as SQL: DuckDB views over its Parquet files, for people and for reports.

Nothing is stored here: the views are made anew in memory from what the store holds, so a reader
never waits for a writer and a catalogue is never out of date.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tamis.errors import DataError, StoreError
from tamis.storage import matrices
from tamis.storage.artifact import Store
from tamis.storage.signals import KEY

VIEWS = ("samples", "signals", "signals_long", "selections", "rejected", "refinements", "runs")

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
# Of a signal: its fingerprint, the column it is keyed by, the fields to show.
Signal = tuple[str, str, list[pa.Field]]
# Far more than a question asked by hand needs; a runaway query ends instead of filling the disk.
QUERY_SECONDS = 600.0


class OpenStore:
    """A store open for questions. `sql` is read-only and sandboxed: one SELECT, no other files."""

    def __init__(self, store: Store):
        if not store.root.is_dir():
            raise StoreError(
                f"there is no store at {store.root}; tamis ingest or tamis run makes one"
            )
        self.store = store
        self._views: list[tuple[str, str]] = []
        self._connection: duckdb.DuckDBPyConnection | None = None

    def sql(self, query: str, parameters: Mapping[str, Any] | None = None) -> pa.Table:
        """Run one SELECT over the views; `$name` stands for a parameter. Returns an Arrow table."""
        _refuse_all_but_select(query)
        connection = self._connected()
        timer = threading.Timer(QUERY_SECONDS, connection.interrupt)
        timer.start()
        try:
            table = connection.sql(query, params=dict(parameters or {})).to_arrow_table()
            return table.rename_columns(_unique(table.column_names))
        except duckdb.InterruptException as error:
            raise DataError(f"the query took longer than {QUERY_SECONDS:.0f} s") from error
        except duckdb.Error as error:
            raise DataError(f"SQL: {' '.join(str(error).split())}") from error
        finally:
            timer.cancel()

    def embeddings(self, name: str) -> tuple[list[str], NDArray[np.float32]]:
        """The ids of all samples, ascending, and their vectors (n, d), memory-mapped from disk."""
        fingerprint = self.store.latest("signals").get(name)
        if fingerprint is None:
            raise StoreError(f"the store {self.store.root} has no signal {name!r}")
        ids = self.sql("select id, content_key from samples order by id")
        matrix = matrices.matrix(
            self.store, fingerprint, "vector", ids.column(KEY).combine_chunks(), say=lambda _: None
        )
        return ids.column("id").to_pylist(), matrix

    def _connected(self) -> duckdb.DuckDBPyConnection:
        """A connection whose views are those of the store as it is now."""
        views = _views(self.store)
        if self._connection is None or views != self._views:
            self._connection = _connect(self.store.root, views)
            self._views = views
        return self._connection


def _connect(root: Path, views: Sequence[tuple[str, str]]) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    for name, definition in views:
        connection.execute(f"create view {name} as {definition}")
    # In this order: once external access is off, the allowed folder can no longer be named.
    connection.execute(f"set allowed_directories=[{_quoted(os.fspath(root.resolve()))}]")
    connection.execute("set enable_external_access=false")
    connection.execute("set lock_configuration=true")
    return connection


def open_store(path: str | Path) -> OpenStore:
    """Open a store for SQL and for its embeddings."""
    return OpenStore(Store(path))


def _unique(names: Sequence[str]) -> list[str]:
    """Column names with a number after those that came before: `labels`, `labels_2`."""
    seen: dict[str, int] = {}
    found = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return found


def _refuse_all_but_select(query: str) -> None:
    try:
        statements = duckdb.extract_statements(query)
    except duckdb.Error as error:
        raise DataError(f"SQL: {' '.join(str(error).split())}") from error
    kinds = [statement.type for statement in statements]
    if kinds != [duckdb.StatementType.SELECT]:
        given = ", ".join(kind.name for kind in kinds) or "nothing"
        raise DataError(f"tamis sql runs exactly one SELECT; this was {given}")


def _views(store: Store) -> list[tuple[str, str]]:
    """The name and the definition of every view, in an order in which they can be made."""
    samples = [store.folder("samples", key) for key in store.latest("samples").values()]
    parts, rejected, refined = (
        [p for folder in samples for p in sorted(folder.glob(f"{name}-*.parquet"))]
        for name in ("part", "rejected", "refinements")
    )
    signals = _signal_fields(store)
    columns = _columns(parts)
    return [
        ("samples", _union(parts) if parts else _nothing("samples")),
        ("rejected", _union(rejected) if rejected else _nothing("rejected")),
        ("refinements", _union(refined) if refined else _nothing("refinements")),
        ("signals", _wide(store, signals, columns) if parts else _nothing("samples")),
        ("signals_long", _long(signals) if parts and signals else _nothing("signals_long")),
        ("selections", _selections(store)),
        ("runs", _runs(store)),
    ]


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
        struct = ", ".join(f"{_quoted(f.name)}: g{i}.{_name(f.name)}" for f in fields)
        shown.append(f"{{{struct}}} as {_name(name)}")
        parts = sorted(store.folder("signals", fingerprint).glob("part-*.parquet"))
        joins.append(f"left join {_files(parts)} g{i} on g{i}.{key} = s.{key}")
    return f"select {', '.join(shown)} from samples s {' '.join(joins)}"


def _long(signals: Mapping[str, Signal]) -> str:
    """One row a sample and number."""
    selects = [
        f"select id, source, {_quoted(f'{name}.{f.name}')} as signal, "
        f"{_name(name)}.{_name(f.name)}::double as value from signals"
        for name, (_, _, fields) in signals.items()
        for f in fields
        if pa.types.is_floating(f.type)
        or pa.types.is_integer(f.type)
        or pa.types.is_boolean(f.type)
    ]
    return " union all ".join(selects) if selects else _nothing("signals_long")


def _selections(store: Store) -> str:
    files = [a.path / "rows.parquet" for a in store.all("selections")]
    return _union(files) if files else _nothing("selections")


def _runs(store: Store) -> str:
    files = sorted((store.root / "runs").glob("*.json"))
    types = ", ".join(f"{_quoted(name)}: {_quoted(kind)}" for name, kind in RUN_COLUMNS.items())
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
    return f"[{', '.join(_quoted(os.fspath(f.resolve())) for f in files)}]"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _name(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'
