"""Signals: `signals/<fingerprint>/part-*.parquet`, whose first column says what they are keyed by.

What a row has by itself is keyed by its content. A part is whole as soon as it has its name, so
scoring grows by parts: new rows cost only themselves, and a killed run loses the shard in hand.
What needs all rows is keyed by id and is one part; `labels.parquet` beside it has one row a label
where the signal is labels. `scorer.json` tells what determined the values; it and the labels are
written before the first part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tamis.errors import StoreError
from tamis.storage import files
from tamis.storage.artifact import Store

KEY = "content_key"
ID = "id"
SCORER = "scorer.json"
LABELS = "labels.parquet"


def fingerprint(identity: Mapping[str, Any]) -> str:
    """The key of a signal: 32 hex digits over all that determines its values; never a path."""
    return files.digest({"signals": dict(identity)})


class SignalTable:
    """The stored values of one scorer with one set of options; grows, never changes."""

    def __init__(self, store: Store, name: str, key: str):
        """`name` is the column the user sees, `key` the fingerprint of the scorer."""
        self.name = name
        self.path: Path = store.folder("signals", key)

    def parts(self) -> list[Path]:
        """The parts on disk, in a stable order."""
        return sorted(self.path.glob("part-*.parquet"))

    @property
    def schema(self) -> pa.Schema:
        """The key, `content_key` or `id`, and after it the fields. Raises when nothing is stored
        yet."""
        parts = self.parts()
        if not parts:
            raise StoreError(f"the signal {self.name!r} has no rows yet; run tamis score")
        return pq.read_schema(parts[0])

    def labels(self) -> pa.Table | None:
        """One row a label (`name`, perhaps `embedding`), if the signal makes labels."""
        path = self.path / LABELS
        return pq.read_table(path) if path.is_file() else None

    def scorer(self) -> dict[str, Any]:
        """What determined the values: the scorer's name, version and identity."""
        told: dict[str, Any] = files.read_json(self.path / SCORER)
        return told

    def keys(self) -> pa.Array:
        """The content keys that have been scored."""
        columns = [pq.read_table(part, columns=[KEY]).column(KEY) for part in self.parts()]
        chunks = [chunk for column in columns for chunk in column.chunks]
        return pa.concat_arrays(chunks) if chunks else pa.array([], pa.string())

    def missing(self, keys: pa.Array) -> pa.Array:
        """A boolean array: which of `keys` have no value yet."""
        return pc.invert(pc.is_in(keys, value_set=self.keys()))

    def append(self, table: pa.Table, identity: Mapping[str, Any]) -> None:
        """Store one shard: `content_key` and one column a field. Survives a kill after return."""
        if not (self.path / SCORER).is_file():
            files.write_json(self.path / SCORER, dict(identity))
        part = files.digest(table.column(KEY).to_pylist())
        files.write_parquet(self.path / f"part-{part}.parquet", table)

    def write(self, table: pa.Table, labels: pa.Table | None, identity: Mapping[str, Any]) -> None:
        """Store a signal of all rows at once: `id` and one column a field. The part comes last."""
        files.write_json(self.path / SCORER, dict(identity))
        if labels is not None:
            files.write_parquet(self.path / LABELS, labels)
        files.write_parquet(self.path / "part-all.parquet", table)

    def read(self, keys: pa.Array, fields: Sequence[str] | None = None) -> pa.Table:
        """The values of `keys`, in their order, without the key; raises if one has none.

        `keys` are ids or content keys, as the first column of `schema` says.
        """
        key = self.schema.names[0]
        columns = None if fields is None else [key, *fields]
        parts = [pq.read_table(part, columns=columns) for part in self.parts()]
        # A part whose lists are all empty does not know what they hold.
        table = pa.concat_tables(parts, promote_options="permissive")
        at = pc.index_in(keys, value_set=table.column(key).combine_chunks())
        if at.null_count:
            raise StoreError(
                f"the signal {self.name!r} has no value for {at.null_count} of {len(keys)} "
                "samples; run tamis score"
            )
        return table.drop_columns([key]).take(at)
