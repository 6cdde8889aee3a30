"""The elements of a JSON array, one by one, without holding the array."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator

from tamis.errors import DataError

# A whole string, a bracket, or the quote of a string that the buffer cuts off. Possessive, so that
# a cut string costs one pass and not a backtrack.
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_INSIDE = re.compile(_STRING + rb'|[\[\]{}"]', re.DOTALL)
_OUTSIDE = re.compile(_STRING + rb'|[\[\]{},"]', re.DOTALL)
_SPACE = b" \t\r\n"
_OPEN = b"{["
BLOCK_BYTES = 1 << 20


def elements(stream: io.BufferedReader, name: str, limit: int) -> Iterator[tuple[bytes, int]]:
    """Yield each element's text and how many bytes of `stream` it ended after.

    `stream` stands after the opening bracket, or where an earlier call said an element ended.
    Elements are told apart by brackets and strings only; whether one is valid JSON is for its
    reader to find. Raises `DataError` when the array does not end, when text follows it, or when an
    element is longer than `limit` bytes. Holds one element and one block.
    """
    buffer, base, start = b"", 0, 0  # base: bytes of the stream before the buffer
    while True:
        end = _end(buffer, start)
        if end is None:
            buffer, base, start = buffer[start:], base + start, 0
            buffer += _more(stream, name, len(buffer), limit)
            continue
        text, last = buffer[start:end].strip(_SPACE), buffer[end] == ord("]")
        start = end + 1
        if text or not last:
            # before the closing bracket, so that whoever reads on from there finds the end
            yield text, base + (end if last else start)
        if last:
            _nothing_after(buffer[start:], stream, name)
            return


def _more(stream: io.BufferedReader, name: str, held: int, limit: int) -> bytes:
    if held > limit:
        raise DataError(f"{name}: an element of the JSON array is longer than {limit} bytes")
    # as much again as is held, so that a long element is scanned a few times and not often
    block = stream.read(max(BLOCK_BYTES, held))
    if not block:
        raise DataError(
            f"{name}: the JSON array is not terminated (the file ends before its closing bracket); "
            "fetch the file again"
        )
    return block


def _end(buffer: bytes, start: int) -> int | None:
    """Where the element at `start` ends: at a comma or closing bracket outside of it."""
    depth, at = 0, start
    while True:
        found = (_INSIDE if depth else _OUTSIDE).search(buffer, at)
        if found is None:
            return None
        at = found.end()
        if at - found.start() > 1:
            continue
        token = buffer[at - 1]
        if token in _OPEN:
            depth += 1
        elif token == ord('"'):
            return None  # the buffer ends inside a string
        elif depth:
            depth -= 1
        elif token != ord("}"):
            return at - 1


def _nothing_after(rest: bytes, stream: io.BufferedReader, name: str) -> None:
    while not rest.strip(_SPACE):
        rest = stream.read(BLOCK_BYTES)
        if not rest:
            return
    raise DataError(f"{name}: text follows the end of the JSON array; expected one array a file")
