"""Writing files so that a reader sees either nothing or the whole."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

# Columns with few distinct values, where a dictionary pays; embeddings would only grow by one.
_DICTIONARY = ("source", "licence", "origin", "shape", "reason", "file", "family", "template")
ROW_GROUP_ROWS = 65_536


def canonical_json(value: Any) -> bytes:
    """`value` as JSON with sorted keys and no spaces: equal values give equal bytes."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS | orjson.OPT_SERIALIZE_NUMPY)


def digest(value: Any) -> str:
    """32 hex digits that identify a JSON-like value."""
    return hashlib.blake2b(canonical_json(value), digest_size=16).hexdigest()


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Make a rename inside `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; when the block ends well, its file becomes `path`.

    The file is fsynced before the rename. If the block fails, the temporary file is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{os.getpid()}.tmp"
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a small file atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically, indented, for people to read too."""
    options = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_SERIALIZE_NUMPY
    write_bytes(path, orjson.dumps(value, option=options) + b"\n")


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return orjson.loads(path.read_bytes())


def write_parquet(path: Path, table: pa.Table) -> None:
    """Write a Parquet file atomically: zstd, dictionaries only where they pay.

    Vectors of float32 are byte-stream-split, which DuckDB reads; it refuses that for float16.
    """
    with replacing(path) as temporary:
        pq.write_table(table, temporary, **parquet_options(table.schema))


def parquet_options(schema: pa.Schema) -> dict[str, Any]:
    """The options with which tamis writes a table of this schema."""
    vectors = [
        f"{field.name}.list.element"
        for field in schema
        if pa.types.is_fixed_size_list(field.type) and field.type.value_type == pa.float32()
    ]
    return {
        "compression": "zstd",
        "use_dictionary": [name for name in _DICTIONARY if name in schema.names],
        "use_byte_stream_split": vectors or False,
        "row_group_size": ROW_GROUP_ROWS,
    }
