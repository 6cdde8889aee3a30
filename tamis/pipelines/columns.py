"""Columns by name: `nll.mean` is a signal's field, `family` a column the rows came with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tamis.errors import RecipeError
from tamis.numerics.ragged import Ragged
from tamis.pipelines.pool import Snapshot
from tamis.storage import matrices
from tamis.storage.artifact import Say, Store
from tamis.storage.signals import SignalTable


@dataclass(frozen=True, slots=True)
class Columns:
    """Gives any column of a pool by name. `signals` maps a signal's name to its fingerprint."""

    store: Store
    pool: Snapshot
    signals: Mapping[str, str]
    say: Say

    def values(self, name: str) -> np.ndarray | Ragged:
        """The column of the pool: NaN or None where a row has no value, (n, d) for vectors."""
        signal, dot, field = name.partition(".")
        if not dot:
            return _numpy(self.pool.column(name))
        if signal not in self.signals:
            known = ", ".join(sorted(self.signals)) or "none"
            raise RecipeError(f"{name}: there is no signal {signal!r}; there are: {known}")
        table = SignalTable(self.store, signal, self.signals[signal])
        schema = pq.read_schema(_first(table.parts(), signal))
        if field not in schema.names[1:]:
            raise RecipeError(
                f"{name}: the signal {signal!r} has no field {field!r}; "
                f"it has {', '.join(schema.names[1:])}"
            )
        keys = self.pool.column("content_key")
        if pa.types.is_fixed_size_list(schema.field(field).type):
            key = self.signals[signal]
            return matrices.matrix(self.store, key, field, keys, say=self.say)
        return _numpy(table.read(keys, [field]).column(field).combine_chunks())

    def reasons(self, name: str) -> np.ndarray | None:
        """Why a signal has no value, one text a row, if the signal tells."""
        signal, dot, _ = name.partition(".")
        if not dot:
            return None
        table = SignalTable(self.store, signal, self.signals[signal])
        if "reason" not in pq.read_schema(_first(table.parts(), signal)).names:
            return None
        keys = self.pool.column("content_key")
        return _numpy(table.read(keys, ["reason"]).column("reason").combine_chunks())

    def fingerprint(self, name: str) -> str | None:
        """What a column depends on beyond the samples: the fingerprint of its signal."""
        signal, dot, _ = name.partition(".")
        return self.signals.get(signal) if dot else None


def _first(parts: list[Path], signal: str) -> Path:
    if not parts:
        raise RecipeError(f"the signal {signal!r} has no rows yet; run tamis score")
    return parts[0]


def missing(values: np.ndarray | Ragged) -> np.ndarray:
    """Which rows have no value. A row of a ragged column has one when its list is not empty."""
    if isinstance(values, Ragged):
        return np.diff(values.indptr) == 0
    if values.ndim > 1:
        return ~np.isfinite(values).all(axis=1)
    if values.dtype == object:
        return np.array([v is None for v in values], dtype=bool)
    return ~np.isfinite(values) if values.dtype.kind == "f" else np.zeros(len(values), dtype=bool)


def _numpy(array: pa.Array) -> np.ndarray | Ragged:
    """Numbers as float64 with NaN for null (whole integer columns stay), lists as `Ragged`, the
    rest as objects."""
    kind = array.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        sizes = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
        indptr = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        return Ragged(indptr, _numpy(array.flatten()))
    if pa.types.is_integer(kind) and array.null_count == 0:
        return array.to_numpy(zero_copy_only=False).astype(np.int64)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        return pc.cast(array, pa.float64()).to_numpy(zero_copy_only=False)
    return np.asarray(array.to_pylist(), dtype=object)
