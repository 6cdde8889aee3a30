"""Columns by name: `nll.mean` is a signal's field, `family` a column the rows came with,
`extra.annotation.tags` a value inside what was no single value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from tamis.errors import DataError, RecipeError
from tamis.numerics.ragged import Ragged
from tamis.pipelines.pool import Snapshot
from tamis.samples import EXTRA
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
        if signal == EXTRA:
            return nested(self.pool.column(EXTRA), field.split("."))
        if signal not in self.signals:
            known = ", ".join(sorted(self.signals)) or "none"
            raise RecipeError(f"{name}: there is no signal {signal!r}; there are: {known}")
        table = SignalTable(self.store, signal, self.signals[signal])
        schema = table.schema
        if field not in schema.names[1:]:
            raise RecipeError(
                f"{name}: the signal {signal!r} has no field {field!r}; "
                f"it has {', '.join(schema.names[1:])}"
            )
        keys = self.pool.column(schema.names[0])
        if pa.types.is_fixed_size_list(schema.field(field).type):
            key = self.signals[signal]
            return matrices.matrix(self.store, key, field, keys, say=self.say)
        return _numpy(table.read(keys, [field]).column(field).combine_chunks())

    def labels(self, name: str) -> Mapping[str, np.ndarray] | None:
        """The table of labels of the signal a column is of, one entry a label, if it has one."""
        signal, dot, _ = name.partition(".")
        if not dot or signal not in self.signals:
            return None
        table = SignalTable(self.store, signal, self.signals[signal]).labels()
        if table is None:
            return None
        return {n: _label_column(table.column(n).combine_chunks()) for n in table.column_names}

    def scorer(self, name: str) -> str | None:
        """The name of the scorer that made a column."""
        signal, dot, _ = name.partition(".")
        if not dot or signal not in self.signals:
            return None
        return str(SignalTable(self.store, signal, self.signals[signal]).scorer()["scorer"])

    def reasons(self, name: str) -> np.ndarray | None:
        """Why a signal has no value, one text a row, if the signal tells."""
        signal, dot, _ = name.partition(".")
        if not dot or signal not in self.signals:
            return None
        table = SignalTable(self.store, signal, self.signals[signal])
        if "reason" not in table.schema.names:
            return None
        keys = self.pool.column(table.schema.names[0])
        return _numpy(table.read(keys, ["reason"]).column("reason").combine_chunks())

    def fingerprint(self, name: str) -> str | None:
        """What a column depends on beyond the samples: the fingerprint of its signal."""
        signal, dot, _ = name.partition(".")
        return self.signals.get(signal) if dot else None


def missing(values: np.ndarray | Ragged) -> np.ndarray:
    """Which rows have no value. A row of a ragged column has one when its list is not empty."""
    if isinstance(values, Ragged):
        return np.diff(values.indptr) == 0
    if values.ndim > 1:
        return ~np.isfinite(values).all(axis=1)
    if values.dtype == object:
        return np.array([v is None for v in values], dtype=bool)
    return ~np.isfinite(values) if values.dtype.kind == "f" else np.zeros(len(values), dtype=bool)


def nested(extras: pa.Array, path: Sequence[str]) -> np.ndarray | Ragged:
    """The values at a path of the JSON texts of `extra`: lists as `Ragged`, else as `_numpy`."""
    found = []
    for value in extras.to_pylist():
        at = None if value is None else orjson.loads(value)
        for name in path:
            at = at.get(name) if isinstance(at, dict) else None
        found.append(at)
    try:
        return _numpy(pa.array(found))
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        name = ".".join([EXTRA, *path])
        raise DataError(f"the column {name} mixes kinds of values, or holds objects") from error


def _label_column(array: pa.Array) -> np.ndarray:
    """Names as objects, embeddings as (L, d)."""
    if pa.types.is_fixed_size_list(array.type):
        return array.flatten().to_numpy().reshape(len(array), array.type.list_size)
    return np.asarray(array.to_pylist(), dtype=object)


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
