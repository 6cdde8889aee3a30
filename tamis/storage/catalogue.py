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
from numpy.typing import NDArray

from tamis.errors import DataError, StoreError
from tamis.storage import matrices, views
from tamis.storage.artifact import Store
from tamis.storage.signals import KEY, SignalTable

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

    def scorers(self) -> dict[str, str]:
        """The scorer that made each of the signals the views show."""
        return {
            name: str(SignalTable(self.store, name, key).scorer()["scorer"])
            for name, key in self.store.latest("signals").items()
            if self.store.folder("signals", key).is_dir()
        }

    def _connected(self) -> duckdb.DuckDBPyConnection:
        """A connection whose views are those of the store as it is now."""
        now = views.of(self.store)
        if self._connection is None or now != self._views:
            self._connection = _connect(self.store.root, now)
            self._views = now
        return self._connection


def _connect(root: Path, made: Sequence[tuple[str, str]]) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    for name, definition in made:
        connection.execute(f"create view {name} as {definition}")
    # In this order: once external access is off, the allowed folder can no longer be named.
    connection.execute(f"set allowed_directories=[{views.quoted(os.fspath(root.resolve()))}]")
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
