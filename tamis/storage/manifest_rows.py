"""Rows of a manifest as Arrow tables: out of samples, and back without loss."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson
import pyarrow as pa

from tamis.samples import EXTRA, MESSAGES, Message, decode_messages, decode_tools, encode_message
from tamis.storage.files import canonical_json

# What `rows` gives back, and what it is given: messages and tools as in `tamis.samples`.
COLUMNS = ("row_id", "messages", "tools", "weight", "source", "ability", "score")

_PLAIN = {"role": pa.string(), "content": pa.string(), "name": pa.string()}
_PLAIN |= {"tool_call_id": pa.string(), "train": pa.bool_()}
_CALLS = "tool_calls"
_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_MOST_FIELDS = 32
_SINGLE = (("user", "assistant"), ("system", "user", "assistant"))
_FEATURES = {
    pa.string(): "string",
    pa.bool_(): "bool",
    pa.float32(): "float32",
}


def to_table(rows: pa.Table) -> pa.Table:
    """The table a trainer reads.

    Messages are a list of structs of role and content; as soon as one message has more, every
    struct has it too: `name`, `tool_calls`, `tool_call_id`, `train`, and further keys by their
    names. What is not text is JSON, which `datasets` gives back as Python values (feature `Json`)
    and DuckDB as JSON. `instruction`, `input`, `output` and `system` repeat single-turn rows for
    trainers that read the alpaca layout, and are empty for all others.
    """
    conversations = decode_messages(rows.column("messages"))
    tools = decode_tools(rows.column("tools"))
    columns = {
        "row_id": rows.column("row_id").cast(pa.string()),
        "messages": _messages(conversations),
        **{name: pa.array(v, pa.string()) for name, v in _alpaca(conversations, tools).items()},
        "weight": _weights(rows.column("weight")),
        "source": rows.column("source").cast(pa.string()),
        "ability": rows.column("ability").cast(pa.string()),
        "score": rows.column("score").cast(pa.float32()),
    }
    if any(tools):
        columns["tools"] = pa.array([_json(t) for t in tools], pa.string()).cast(pa.json_())
    table = pa.table(columns)
    features = {field.name: _feature(field.type) for field in table.schema}
    note = orjson.dumps({"info": {"features": features}})
    return table.replace_schema_metadata({"huggingface": note})


def from_table(table: pa.Table) -> pa.Table:
    """The inverse of `to_table`: the columns of `COLUMNS`, messages and tools as in samples."""
    messages = [
        [encode_message(_decoded(m)) for m in row] for row in table.column("messages").to_pylist()
    ]
    tools: pa.Array = pa.nulls(table.num_rows, pa.string())
    if "tools" in table.schema.names:
        tools = pa.array(table.column("tools").to_pylist(), pa.string())
    rest = {name: table.column(name) for name in COLUMNS if name not in ("messages", "tools")}
    columns = {**rest, "messages": pa.array(messages, MESSAGES), "tools": tools}
    return pa.table({name: columns[name] for name in COLUMNS})


def contents(rows: pa.Table) -> list[str]:
    """sha256 in hex of each row's content: canonical JSON of its messages, with its tools if it has
    any. Keys without a value do not count."""
    pairs = zip(
        decode_messages(rows.column("messages")), decode_tools(rows.column("tools")), strict=True
    )
    return [
        hashlib.sha256(canonical_json([m, t] if t else m)).hexdigest()
        for m, t in ((list(map(_present, messages)), tools) for messages, tools in pairs)
    ]


def content_hash(rows: pa.Table) -> str:
    """sha256 in hex over the sorted (row_id, content, weight to nine digits) of all rows.

    Neither the order of the rows nor files nor compression count.
    """
    weights = [f"{w:.9g}" for w in _weights(rows.column("weight")).to_pylist()]
    triples = zip(rows.column("row_id").to_pylist(), contents(rows), weights, strict=True)
    return hashlib.sha256(canonical_json(sorted(map(list, triples)))).hexdigest()


def single_turn(messages: Sequence[Message], tools: Any) -> bool:
    """Whether a conversation is one question and one answer in plain text, maybe with a system
    prompt."""
    roles = tuple(m["role"] for m in messages)
    plain = all(set(m) <= {"role", "content"} and m["content"] is not None for m in messages)
    return plain and not tools and roles in _SINGLE


def _messages(conversations: Sequence[Sequence[Message]]) -> pa.Array:
    keys = {k for row in conversations for m in row for k, v in m.items() if v is not None}
    fields = _fields(keys)
    rows = [[dict(_encoded(m, fields)) for m in row] for row in conversations]
    stored = pa.struct([(n, _PLAIN.get(n, pa.string())) for n in fields])
    final = pa.struct([(n, _PLAIN.get(n, pa.json_())) for n in fields])
    return pa.array(rows, pa.list_(stored)).cast(pa.list_(final))


def _fields(keys: set[str]) -> list[str]:
    """The fields of a message's struct. Keys that make no good field names go into `extra`
    together: odd or too many ones, and such as differ only in case, which SQL cannot tell apart."""
    if keys <= {"role", "content"}:
        return ["role", "content"]
    known = ["role", "content", "name", _CALLS, "tool_call_id", "train"]
    more = sorted(keys - set(known))
    taken = {n.casefold() for n in [*known, EXTRA]}
    distinct = len({k.casefold() for k in more} - taken) == len(more)
    if distinct and len(more) <= _MOST_FIELDS and all(map(_FIELD.fullmatch, more)):
        return [*known, *more]
    return [*known, EXTRA]


def _encoded(message: Message, fields: Sequence[str]) -> Iterator[tuple[str, Any]]:
    for name in fields:
        value = message.get(name)
        if name == EXTRA:
            rest = {k: v for k, v in message.items() if k not in fields or k == EXTRA}
            yield name, _json(rest or None)
        else:
            yield name, value if name in _PLAIN else _json(value)


def _decoded(message: Mapping[str, Any]) -> Message:
    decoded: Message = {"role": message["role"], "content": message["content"]}
    for name, value in message.items():
        if value is None or name in decoded:
            continue
        if name == EXTRA:
            decoded |= orjson.loads(value)
        else:
            decoded[name] = value if name in _PLAIN else orjson.loads(value)
    return decoded


def _alpaca(
    conversations: Sequence[Sequence[Message]], tools: Sequence[Any]
) -> dict[str, list[str]]:
    columns: dict[str, list[str]] = {"instruction": [], "input": [], "output": [], "system": []}
    names = {"user": "instruction", "assistant": "output", "system": "system"}
    for messages, given in zip(conversations, tools, strict=True):
        texts = dict.fromkeys(columns, "")
        if single_turn(messages, given):
            texts |= {names[m["role"]]: m["content"] for m in messages}
        for name, text in texts.items():
            columns[name].append(text)
    return columns


def _weights(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(pa.float32()).fill_null(1.0)


def _json(value: Any) -> str | None:
    return None if value is None else orjson.dumps(value).decode()


def _present(message: Message) -> Message:
    return {k: v for k, v in message.items() if v is not None or k == "content"}


def _feature(kind: pa.DataType) -> dict[str, Any]:
    """The name `datasets` has for an Arrow type."""
    if kind == pa.json_():
        return {"_type": "Json"}
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "List"}
    if pa.types.is_struct(kind):
        return {field.name: _feature(field.type) for field in kind}
    return {"dtype": _FEATURES[kind], "_type": "Value"}
