"""What a sample is: its Arrow columns, its messages in and out of them, and its two names.

A sample is one conversation. `id` is unique: it hashes the source, the content and how often that
content came before in the source. `content_key` hashes the content alone, so exact duplicates
share it, within and across sources.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson
import pyarrow as pa

Message = dict[str, Any]

# tool_calls and whatever else a message carried are JSON text: their shape differs from row to row.
MESSAGE = pa.struct(
    [
        ("role", pa.string()),
        ("content", pa.string()),
        ("name", pa.string()),
        ("tool_calls", pa.string()),
        ("tool_call_id", pa.string()),
        ("train", pa.bool_()),
        ("extra", pa.string()),
    ]
)
MESSAGES = pa.list_(MESSAGE)
# The columns every samples table begins with; the columns a row came with follow, then `extra`.
COLUMNS = pa.schema(
    [
        ("id", pa.string()),
        ("content_key", pa.string()),
        ("occurrence", pa.int32()),
        ("duplicate", pa.bool_()),
        ("source", pa.string()),
        ("licence", pa.string()),
        ("origin", pa.string()),
        ("shape", pa.string()),
        ("messages", MESSAGES),
        ("tools", pa.string()),
    ]
)
EXTRA = "extra"
ROLES = ("system", "user", "assistant", "tool")

_PLAIN = ("role", "content", "name", "tool_call_id", "train")


def encode_message(message: Mapping[str, Any]) -> Message:
    """A message as one value of the Arrow type `MESSAGE`; loses nothing."""
    encoded: Message = {key: message.get(key) for key in _PLAIN}
    calls = message.get("tool_calls")
    rest = {k: v for k, v in message.items() if k not in _PLAIN and k != "tool_calls"}
    encoded["tool_calls"] = None if calls is None else orjson.dumps(calls).decode()
    encoded["extra"] = orjson.dumps(rest).decode() if rest else None
    return encoded


def decode_message(encoded: Mapping[str, Any]) -> Message:
    """The inverse of `encode_message`: `role` and `content` always, other keys only when they have
    a value."""
    message: Message = {"role": encoded["role"], "content": encoded["content"]}
    for key in _PLAIN[2:]:
        if encoded.get(key) is not None:
            message[key] = encoded[key]
    if encoded.get("tool_calls") is not None:
        message["tool_calls"] = orjson.loads(encoded["tool_calls"])
    if encoded.get("extra") is not None:
        message.update(orjson.loads(encoded["extra"]))
    return message


def decode_messages(column: pa.Array | pa.ChunkedArray) -> list[list[Message]]:
    """The conversations of a `messages` column."""
    return [[decode_message(m) for m in row] for row in column.to_pylist()]


def decode_tools(column: pa.Array | pa.ChunkedArray) -> list[list[dict[str, Any]] | None]:
    """The tool definitions of a `tools` column."""
    return [None if row is None else orjson.loads(row) for row in column.to_pylist()]


def content_key(messages: Sequence[Mapping[str, Any]], tools: Any = None) -> str:
    """32 hex digits over messages and tools. Keys without a value do not count."""
    present = [{k: v for k, v in m.items() if v is not None} for m in messages]
    text = orjson.dumps([present, tools], option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(text, digest_size=16).hexdigest()


def sample_id(source: str, key: str, occurrence: int) -> str:
    """32 hex digits: the id of the `occurrence`-th sample (from 0) of `source` with this content
    key."""
    text = f"{source}\0{key}\0{occurrence}".encode()
    return hashlib.blake2b(text, digest_size=16).hexdigest()


def answers(messages: Iterable[Mapping[str, Any]]) -> list[str]:
    """The texts of the assistant turns that have text."""
    return [
        m["content"]
        for m in messages
        if m["role"] == "assistant" and m.get("content") and m["content"].strip()
    ]
