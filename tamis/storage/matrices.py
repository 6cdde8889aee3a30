"""Vectors of a pool as one memory-mapped matrix, row i for sample i."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tamis.errors import StoreError
from tamis.storage import files
from tamis.storage.artifact import Maker, Say, Store

FILE = "vectors.npy"


def matrix(
    store: Store, fingerprint: str, field: str, keys: pa.Array, *, say: Say
) -> NDArray[np.float32]:
    """The vectors of a signal for the samples with these keys, in their order: (n, d).

    Keys are ids or content keys, whichever the signal is kept by. Made once and kept in the store,
    so the memory it takes is the reader's page cache. Raises `StoreError` when a sample has no
    vector.
    """
    inputs = {"signal": fingerprint, "field": field, "keys": files.digest(keys.to_pylist())}

    def make(maker: Maker) -> dict[str, Any]:
        return _fill(maker, store, fingerprint, field, keys)

    artifact, _ = store.ensure("matrices", inputs, make, say=say)
    vectors: NDArray[np.float32] = np.load(artifact.path / FILE, mmap_mode="r", allow_pickle=False)
    return vectors


def _fill(
    maker: Maker, store: Store, fingerprint: str, field: str, keys: pa.Array
) -> dict[str, Any]:
    parts = sorted(store.folder("signals", fingerprint).glob("part-*.parquet"))
    if not parts:
        raise StoreError("the embedding has no rows yet; run tamis score")
    schema = pq.read_schema(parts[0])
    width = schema.field(field).type.list_size
    key = schema.names[0]
    filled = np.zeros(len(keys), dtype=bool)
    with files.replacing(maker.folder / FILE) as temporary:
        target = np.lib.format.open_memmap(
            temporary, mode="w+", dtype=np.float32, shape=(len(keys), width)
        )
        for part in parts:
            table = pq.read_table(part, columns=[key, field])
            at = pc.index_in(keys, value_set=table.column(key).combine_chunks())
            rows = np.flatnonzero(np.asarray(at.is_valid()))
            values = table.column(field).combine_chunks().flatten().to_numpy()
            target[rows] = values.reshape(-1, width)[at.drop_null().to_numpy()]
            filled[rows] = True
        target.flush()
        del target
    if not filled.all():
        raise StoreError(f"{int((~filled).sum())} of {len(keys)} samples have no embedding yet")
    return {"rows": len(keys), "width": int(width)}
