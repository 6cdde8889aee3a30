"""Rows of input files: where each stands, its raw text or values, and where to read on after it.

Every reader yields records in the order of the file and holds a bounded part of it. A bad row is a
record like any other, with the reason in place of its values; a bad file is a `DataError`.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Generator, Iterator
from contextlib import closing
from functools import partial
from typing import Any, NamedTuple

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from tamis.errors import DataError
from tamis.storage import json_array
from tamis.storage.inputs import InputFile, open_raw, open_text

LIMIT_BYTES = 1 << 26  # of one row; longer lines are bad rows, so that memory stays bounded
BOM = b"\xef\xbb\xbf"
_CONTROL = re.compile(rb"[\x00-\x1f]")
_BATCH_ROWS = 1024
# Where to read on: a position in the uncompressed bytes (or a row), and the number of the last
# line or row before it.
Mark = tuple[int, int]
START: Mark = (0, 0)


class Bad(NamedTuple):
    """A row that cannot be read at all: why, and its text."""

    reason: str
    text: bytes


# number (line or row, from 1), mark after it, bytes, and the row: JSON text, values, or why not
Record = tuple[int, Mark, int, "bytes | dict[str, Any] | Bad"]
Records = Generator[Record, None, None]


class Malformed(ValueError):
    """A row's text is not JSON; the message is the reason code."""


def parse(text: bytes) -> Any:
    """The value of one row's JSON text; raises `Malformed`.

    Raw control characters inside strings, which JSON forbids and real files hold, are accepted.
    Lone surrogates, NaN and Infinity are not: nothing downstream can store them.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        pass
    try:
        words = text.decode()
    except UnicodeDecodeError as error:
        raise Malformed("invalid_utf8") from error
    if _CONTROL.search(text.strip()) is None:
        raise Malformed("invalid_json")
    import json

    try:
        value = json.loads(words, strict=False, parse_constant=_no_constant)
        return orjson.loads(orjson.dumps(value))  # refuses what orjson refuses elsewhere
    except (ValueError, TypeError, RecursionError) as error:
        raise Malformed("invalid_json") from error


def _no_constant(name: str) -> None:
    raise ValueError(name)


def read(file: InputFile, start: Mark = START) -> Iterator[Record]:
    """The rows of a file after `start`. Blank lines are no rows; a file without rows raises."""
    reader = {"jsonl": _lines, "json": _json, "csv": _csv, "parquet": _parquet}[file.format]
    empty = start == START
    with closing(reader(file, start)) as records:
        for record in records:
            empty = False
            yield record
    if empty:
        raise DataError(f"{file.url} holds no rows; expected at least one")


def _lines(file: InputFile, start: Mark) -> Records:
    """JSON lines. Ends at LF or CRLF; a byte order mark before the first is skipped."""
    offset, number = start
    with open_text(file, offset) as stream:
        for line in iter(partial(stream.readline, LIMIT_BYTES), b""):
            number += 1
            offset += len(line)
            if len(line) == LIMIT_BYTES and line[-1:] != b"\n":
                offset += _to_line_end(stream)
                yield number, (offset, number), 0, Bad("row_too_long", line[:4096])
                continue
            if number == 1 and line.startswith(BOM):
                line = line[len(BOM) :]
            if line and not line.isspace():
                yield number, (offset, number), len(line), line


def _to_line_end(stream: io.BufferedReader) -> int:
    skipped = 0
    for rest in iter(partial(stream.readline, LIMIT_BYTES), b""):
        skipped += len(rest)
        if rest[-1:] == b"\n":
            break
    return skipped


def _json(file: InputFile, start: Mark) -> Records:
    """A `.json` file: one array of rows, or JSON lines, which many call `.json` too."""
    with open_text(file) as stream:
        before, first = _first_byte(stream)
        rest = stream.readline(64) if first == b"{" else b""
    if first == b"{" and not rest.strip():
        raise DataError(
            f"{file.url} is one JSON object over several lines; expected an array of objects, or "
            "one object a line"
        )
    if first != b"[":
        yield from _lines(file, start)
        return
    offset, number = start
    offset = offset or before
    with open_text(file, offset) as stream:
        for text, end in json_array.elements(stream, file.url, LIMIT_BYTES):
            number += 1
            yield number, (offset + end, number), len(text), text


def _first_byte(stream: io.BufferedReader) -> tuple[int, bytes]:
    """How many bytes reach to and with the first that is not blank, and that byte."""
    count = 0
    while byte := stream.read(1):
        count += 1
        if not byte.isspace() and byte not in BOM:
            break
    return count, byte


def _csv(file: InputFile, start: Mark) -> Records:
    """CSV with a header, comma-separated, quoted by `"`; an empty cell is null.

    The number of a row is the line it begins on. A quote that never closes is a bad file.
    """
    csv.field_size_limit(LIMIT_BYTES)  # of the whole process; the default refuses long answers
    with open_text(file) as stream:
        text = _Text(stream, START)
        header = _header(file, text)
    after_header = text.mark
    mark = after_header if start == START else start
    with open_text(file, mark[0]) as stream:
        text = _Text(stream, mark)
        rows = csv.reader(text, strict=True)
        while True:
            number, before = text.mark[1] + 1, text.mark[0]
            text.kept.clear()
            try:
                cells = next(rows, None)
            except csv.Error as error:
                if "unexpected end of data" in str(error):
                    raise DataError(
                        f"{file.url}: the quote opened in the row of line {number} is not closed "
                        "before the end of the file"
                    ) from error
                yield number, text.mark, 0, Bad("invalid_csv", text.raw())
                continue
            if cells is None:
                return
            if cells:
                yield number, text.mark, text.mark[0] - before, _cells(header, cells, text)


class _Text:
    """The lines of a byte stream as text; counts them and keeps those of the present row."""

    def __init__(self, stream: io.BufferedReader, mark: Mark):
        self._stream = stream
        self.mark = mark
        self.kept: list[str] = []

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._stream.readline(LIMIT_BYTES)
        if not line:
            raise StopIteration
        if self.mark[1] == 0:
            self.mark = (len(line), 1)
            line = line.removeprefix(BOM)
        else:
            self.mark = (self.mark[0] + len(line), self.mark[1] + 1)
        self.kept.append(line.decode("utf-8", "surrogateescape"))
        return self.kept[-1]

    def raw(self) -> bytes:
        """The bytes of the present row."""
        return "".join(self.kept).encode("utf-8", "surrogateescape")


def _header(file: InputFile, text: _Text) -> list[str]:
    try:
        header: list[str] = next(csv.reader(text, strict=True), [])
        "".join(header).encode()
    except (csv.Error, UnicodeEncodeError) as error:
        raise DataError(f"{file.url}: the CSV header is not readable: {error}") from error
    if len(set(header)) < len(header):
        raise DataError(f"{file.url}: the CSV header names a column twice; rename one of them")
    return header


def _cells(header: list[str], cells: list[str], text: _Text) -> dict[str, Any] | Bad:
    if len(cells) != len(header):
        return Bad("wrong_field_count", text.raw())
    try:
        "".join(cells).encode()
    except UnicodeEncodeError:
        return Bad("invalid_utf8", text.raw())
    return {name: cell or None for name, cell in zip(header, cells, strict=True)}


def _parquet(file: InputFile, start: Mark) -> Records:
    row, _ = start
    with open_raw(file) as stream:
        try:
            table = pq.ParquetFile(stream, pre_buffer=False)
            groups, skip = _groups_from(table.metadata, row)
            for batch in table.iter_batches(_BATCH_ROWS, row_groups=groups, use_threads=False):
                batch, skip = batch.slice(min(skip, batch.num_rows)), max(0, skip - batch.num_rows)
                size = batch.nbytes // max(1, batch.num_rows)
                for record in _batch_rows(batch):
                    row += 1
                    yield row, (row, row), size, record
        except (pa.ArrowException, OSError) as error:
            words = " ".join(str(error).split())
            raise DataError(
                f"{file.url} is not a whole Parquet file: {words}; fetch it again"
            ) from error


def _groups_from(metadata: pq.FileMetaData, row: int) -> tuple[list[int], int]:
    """The row groups from the one that holds `row` on, and how many rows of it come before."""
    sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    first = 0
    while first < len(sizes) and row >= sizes[first]:
        row -= sizes[first]
        first += 1
    return list(range(first, len(sizes))), row


def _batch_rows(batch: pa.RecordBatch) -> list[dict[str, Any] | Bad]:
    """The rows of a batch as values. A row with text that is not UTF-8 is bad, the others are
    not."""
    try:
        columns = [column.to_pylist() for column in batch.columns]
    except UnicodeDecodeError:
        if batch.num_rows == 1:
            return [Bad("invalid_utf8", b"")]
        return [row for i in range(batch.num_rows) for row in _batch_rows(batch.slice(i, 1))]
    names = batch.schema.names
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def parquet_rows(file: InputFile) -> int | None:
    """The rows a Parquet file says it holds; None for other files. Raises for a damaged one."""
    if file.format != "parquet":
        return None
    with open_raw(file) as stream:
        try:
            return int(pq.ParquetFile(stream).metadata.num_rows)
        except (pa.ArrowException, OSError) as error:
            words = " ".join(str(error).split())
            raise DataError(
                f"{file.url} is not a whole Parquet file: {words}; fetch it again"
            ) from error
