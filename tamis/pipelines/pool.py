"""The pool: the samples of one or more ingested sources, in ascending id."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tamis.errors import DataError
from tamis.storage.artifact import Store

TRAINING_COLUMNS = ("id", "content_key", "source", "licence", "messages", "tools")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Some sources as they were ingested. Row i is sample i everywhere; rows ascend by id."""

    sources: Mapping[str, str]
    parts: Sequence[Path]
    ids: pa.Array
    order: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def columns(self) -> list[str]:
        """Every column some part has."""
        return list(dict.fromkeys(n for part in self.parts for n in pq.read_schema(part).names))

    def column(self, name: str) -> pa.Array:
        """One column, null where a source does not have it."""
        if name not in self.columns():
            raise DataError(
                f"no sample has a column {name!r}; there are {', '.join(sorted(self.columns()))}"
            )
        tables = []
        for part in self.parts:
            if name in pq.read_schema(part).names:
                tables.append(pq.read_table(part, columns=[name]))
            else:
                rows = pq.read_metadata(part).num_rows
                tables.append(pa.table({name: pa.nulls(rows)}))
        table = pa.concat_tables(tables, promote_options="permissive")
        return table.column(name).combine_chunks().take(pa.array(self.order))

    def rows(self, ids: pa.Array, columns: Sequence[str] = TRAINING_COLUMNS) -> pa.Table:
        """The samples with these ids, in their order. Reads a part at a time."""
        found = []
        for part in self.parts:
            names = [c for c in columns if c in pq.read_schema(part).names]
            table = pq.read_table(part, columns=names)
            found.append(table.filter(pc.is_in(table.column("id"), value_set=ids)))
        table = pa.concat_tables(found, promote_options="permissive")
        at = pc.index_in(ids, value_set=table.column("id").combine_chunks())
        if at.null_count:
            raise DataError(f"{at.null_count} of {len(ids)} ids are not in the pool")
        return table.take(at)

    def batches(self) -> Iterator[pa.Table]:
        """The samples a part at a time, in the order of the files, with what a scorer reads."""
        yield from map(self.batch, range(len(self.parts)))

    def batch(self, number: int) -> pa.Table:
        """The samples of one part."""
        columns = ["content_key", "source", "messages", "tools"]
        return pq.read_table(self.parts[number], columns=columns)


def snapshot(store: Store, sources: Mapping[str, str]) -> Snapshot:
    """Open ingested sources, given the key of each by name, as one pool."""
    parts = [
        part
        for _, key in sorted(sources.items())
        for part in sorted(store.get("samples", key).path.glob("part-*.parquet"))
    ]
    ids = pa.concat_tables([pq.read_table(p, columns=["id"]) for p in parts]).column("id")
    order = pc.sort_indices(ids).to_numpy()
    return Snapshot(dict(sources), parts, ids.combine_chunks().take(pa.array(order)), order)
