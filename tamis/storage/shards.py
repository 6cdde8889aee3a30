"""Tables of ingested rows: as they are collected, and in their final form.

A raw shard holds what one row alone decides, and the columns rows came with, each typed for this
shard. The final shard adds what only all rows decide: occurrence, id, and the types and names of
the columns.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from itertools import chain
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from tamis.samples import COLUMNS, EXTRA, MESSAGE, encode_message, sample_id
from tamis.storage import files
from tamis.storage.shapes import Normal

REJECTED = pa.schema(
    [
        ("source", pa.string()),
        ("file", pa.string()),
        ("line", pa.int64()),
        ("reason", pa.string()),
        ("text", pa.string()),
    ]
)
REJECTED_BYTES = 2048
MOST_COLUMNS = 256  # names beyond the first so many go to `extra`: rows may use data as keys
_PREFIX = "c:"  # keeps the columns of rows apart from ours in a raw shard
_KINDS = {bool: "bool", int: "int", float: "float", str: "string"}
_TYPES = {"bool": pa.bool_(), "int": pa.int64(), "float": pa.float64(), "string": pa.string()}
_AS_TEXT = (datetime, date, time, timedelta, Decimal, UUID)
_SPARSE = ("name", "tool_calls", "tool_call_id", "train", "extra")


class RawShard:
    """Collects accepted rows and gives them as one table."""

    def __init__(self, names: Sequence[str]):
        """`names`: the columns that rows of earlier shards came with, in order of first sight."""
        self.names = dict.fromkeys(names)
        self._plain: dict[str, list[str | None]] = {
            name: [] for name in ("content_key", "licence", "origin", "shape", "tools")
        }
        self._roles: list[str] = []
        self._contents: list[str | None] = []
        self._special: dict[int, Mapping[str, Any]] = {}
        self._offsets = [0]
        self._rest: list[dict[str, Any]] = []

    def __len__(self) -> int:
        return len(self._rest)

    def add(self, row: Normal, key: str, licence: str | None, origin: str) -> None:
        """Add a row with its content key; `licence` is for rows without their own.

        Raises TypeError, adding nothing, if the row holds what JSON cannot hold.
        """
        encoded = [encode_message(m) if len(m) > 2 else m for m in row.messages]
        tools = None if row.tools is None else orjson.dumps(row.tools).decode()
        rest = _storable(row.rest)
        plain = self._plain
        plain["content_key"].append(key)
        plain["licence"].append(row.licence or licence)
        plain["origin"].append(origin)
        plain["shape"].append(row.shape)
        plain["tools"].append(tools)
        for message in encoded:
            if len(message) > 2:
                self._special[len(self._roles)] = message
            self._roles.append(message["role"])
            self._contents.append(message["content"])
        self._offsets.append(len(self._roles))
        self._rest.append(rest)

    def table(self) -> tuple[pa.Table, dict[str, list[str]]]:
        """The rows, and for each column they came with the kinds of its values in this shard."""
        extras: list[dict[str, Any]] = [{} for _ in self._rest]
        kinds: dict[str, list[str]] = {}
        arrays = {name: pa.array(values, pa.string()) for name, values in self._plain.items()}
        arrays["messages"] = self._messages()
        for name in dict.fromkeys(chain.from_iterable(self._rest)):
            if name not in self.names and len(self.names) >= MOST_COLUMNS:
                _to_extra(name, self._rest, extras)
                continue
            values = [row.get(name) for row in self._rest]
            found = _split_nested(name, values, extras)
            if found:
                self.names[name] = None
                kinds[name] = sorted(found)
                arrays[_PREFIX + name] = _column(values, kinds[name])
        arrays[EXTRA] = pa.array([_json(e) if e else None for e in extras], pa.string())
        return pa.table(arrays), kinds

    def _messages(self) -> pa.Array:
        count = len(self._roles)
        children = [pa.array(self._roles, pa.string()), pa.array(self._contents, pa.string())]
        for key in _SPARSE:
            kind = MESSAGE.field(key).type
            if not self._special:
                children.append(pa.nulls(count, kind))
                continue
            values: list[Any] = [None] * count
            for at, message in self._special.items():
                values[at] = message[key]
            children.append(pa.array(values, kind))
        turns = pa.StructArray.from_arrays(children, fields=list(MESSAGE))
        return pa.ListArray.from_arrays(pa.array(self._offsets, pa.int32()), turns)


def _storable(row: dict[str, Any]) -> dict[str, Any]:
    """The row with what JSON cannot hold as text; checks nested values."""
    for name, value in row.items():
        kind = type(value)
        if kind in _KINDS or value is None:
            continue
        if kind in (list, dict, tuple):
            _json(value)
        elif isinstance(value, _AS_TEXT):
            row[name] = value.isoformat() if isinstance(value, date | time) else str(value)
        elif kind is not bytes:
            raise TypeError(f"{name}: {kind.__name__}")
    return row


def _json(value: Any) -> str:
    return orjson.dumps(value, default=_plain_value).decode()


def _plain_value(value: Any) -> Any:
    if isinstance(value, bytes):
        from base64 import b64encode

        return {"base64": b64encode(value).decode()}
    if isinstance(value, _AS_TEXT):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _split_nested(name: str, values: list[Any], extras: list[dict[str, Any]]) -> set[str]:
    """Move values that are no scalars to `extras`, in place; the kinds of those left."""
    types = set(map(type, values)) - {type(None)}
    for kind in types - _KINDS.keys():
        for at, value in enumerate(values):
            if type(value) is kind:
                extras[at][name] = value
                values[at] = None
    return {_KINDS[kind] for kind in types & _KINDS.keys()}


def _to_extra(name: str, rows: list[dict[str, Any]], extras: list[dict[str, Any]]) -> None:
    for row, extra in zip(rows, extras, strict=True):
        if row.get(name) is not None:
            extra[name] = row[name]


def _column(values: list[Any], kinds: list[str]) -> pa.Array:
    """One kind: its Arrow type. Several, or integers beyond 64 bits: JSON text of each value."""
    if len(kinds) == 1:
        try:
            return pa.array(values, _TYPES[kinds[0]])
        except (OverflowError, pa.ArrowInvalid):
            kinds.append("string")
    elif kinds == ["float", "int"] and any(type(v) is int and v >= 1 << 63 for v in values):
        kinds.append("string")
    return pa.array([None if v is None else json.dumps(v) for v in values], pa.string())


def write_raw(path: Path, table: pa.Table) -> None:
    """Write a raw shard atomically. Arrow with light compression: it is read once and removed."""
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with (
        files.replacing(path) as temporary,
        pa.OSFile(str(temporary), "wb") as stream,
        pa.ipc.new_file(stream, table.schema, options=options) as writer,
    ):
        writer.write_table(table)


def read_raw(path: Path) -> pa.Table:
    """Read what `write_raw` wrote."""
    with pa.memory_map(str(path)) as stream:
        return pa.ipc.open_file(stream).read_all()


def column_kinds(kinds: Sequence[Mapping[str, Sequence[str]]]) -> dict[str, str]:
    """The kind of each column over all shards: int and float make float, else a mix makes
    string."""
    seen: dict[str, set[str]] = {}
    for shard in kinds:
        for name, found in shard.items():
            seen.setdefault(name, set()).update(found)
    return {name: _joint_kind(found) for name, found in seen.items()}


def _joint_kind(kinds: set[str]) -> str:
    if len(kinds) == 1:
        return next(iter(kinds))
    return "float" if kinds == {"int", "float"} else "string"


def column_names(names: Sequence[str]) -> dict[str, str]:
    """The final name of each column: its own, with `orig_` before one that is taken.

    Taken are the columns of samples, `extra`, and other names in whatever case: SQL knows none.
    """
    own = {name.lower() for name in (*COLUMNS.names, EXTRA)}
    taken = {*own}
    final: dict[str, str] = {}
    for name in sorted(names, key=lambda n: n.lower() in own or not n):
        new = name
        while not new or new.lower() in taken:
            new = f"orig_{new}"
        taken.add(new.lower())
        final[name] = new
    return {name: final[name] for name in names}


def final_table(
    raw: pa.Table,
    kinds: Mapping[str, Sequence[str]],
    columns: Mapping[str, str],
    source: str,
    occurrence: npt.NDArray[np.int32],
) -> pa.Table:
    """A raw shard as samples. `kinds` are this shard's, `columns` those of the whole artefact."""
    keys = raw.column("content_key").to_pylist()
    ids = [sample_id(source, key, n) for key, n in zip(keys, occurrence.tolist(), strict=True)]
    ours = {
        "id": pa.array(ids, pa.string()),
        "occurrence": pa.array(occurrence, pa.int32()),
        "duplicate": pa.array(occurrence > 0),
        "source": pa.repeat(pa.scalar(source), raw.num_rows),
    }
    arrays = {name: ours[name] if name in ours else raw.column(name) for name in COLUMNS.names}
    for name, final in column_names(list(columns)).items():
        target = _TYPES[columns[name]]
        if name in kinds:
            arrays[final] = _as_kind(raw.column(_PREFIX + name), kinds[name], columns[name])
        else:
            arrays[final] = pa.nulls(raw.num_rows, target)
    arrays[EXTRA] = raw.column(EXTRA)
    return pa.table(arrays)


def _as_kind(column: pa.ChunkedArray, kinds: Sequence[str], target: str) -> Any:
    if list(kinds) == [target]:
        return column
    if list(kinds) == ["int"] and target == "float":
        return column.cast(pa.float64(), safe=False)
    values = column.to_pylist()
    if len(kinds) > 1:
        values = [None if v is None else json.loads(v) for v in values]
    if target == "float":
        return pa.array([None if v is None else float(v) for v in values], pa.float64())
    # json and not orjson, which has no NaN
    texts = [v if v is None or type(v) is str else json.dumps(v) for v in values]
    return pa.array(texts, pa.string())


def rejected_table(rows: Sequence[tuple[str, str, int, str, bytes]]) -> pa.Table:
    """Rows of `REJECTED`; texts are cut to 2 kB, and what is no UTF-8 is replaced."""
    columns: list[list[Any]] = [list(column) for column in zip(*rows, strict=True)] or [[]] * 5
    columns[4] = [_cut(text) for text in columns[4]]
    return pa.table(
        [pa.array(values, field.type) for values, field in zip(columns, REJECTED, strict=True)],
        schema=REJECTED,
    )


def _cut(text: bytes) -> str:
    shown = text[:REJECTED_BYTES].decode("utf-8", "replace").encode()
    return shown[:REJECTED_BYTES].decode("utf-8", "ignore")
