"""The usual shapes of instruction rows, told apart row by row and brought into one.

The rules stand in docs/ingest.md. What became a message is taken out of the row; what is left in
it belongs to the sample as well and is for the caller to keep.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from tamis.samples import Message
from tamis.storage.turns import (
    Rejected,
    check_answers,
    conversation,
    from_json,
    text_of,
    tool_list,
)

_CHATS = ("messages", "conversations", "conversation")
_FLAT = (
    ("alpaca", "instruction", "output"),
    ("dolly", "instruction", "response"),
    ("prompt_completion", "prompt", "completion"),
    ("prompt_completion", "prompt", "response"),
)
_SYSTEMS = ("system", "system_prompt")
_TOOLS = ("tools", "functions")
_LICENCES = ("licence", "license")


class Normal(NamedTuple):
    """A row in the one shape: `rest` is what the row held besides."""

    shape: str
    messages: list[Message]
    tools: list[dict[str, Any]] | None
    licence: str | None
    rest: dict[str, Any]


def normalise(row: Any, *, columnar: bool = False) -> Normal:
    """Bring a row of any usual shape into messages; raises `Rejected` with a reason code.

    Takes `row` over and changes it. `columnar` says that the row comes from columns (Parquet,
    datasets), where a key without a value cannot be told from one that is not there.
    """
    if type(row) is not dict:
        raise Rejected("not_an_object")
    if row.get("chosen") is not None and row.get("rejected") is not None:
        raise Rejected("preference_pair")
    shape, messages = _messages(row, columnar)
    _add_system(row, messages)
    check_answers(messages)
    return Normal(shape, messages, _tools(row, columnar), _licence(row), row)


def _messages(row: dict[str, Any], columnar: bool) -> tuple[str, list[Message]]:
    for key in _CHATS:
        if row.get(key) is not None:
            turns = row.pop(key)
            messages = conversation(turns, columnar=columnar)
            first = turns[0] if type(turns) is list and turns else None
            return "sharegpt" if first and "from" in first else "messages", messages
    shape, question, answer = _flat_shape(row)
    if question == "prompt":
        return shape, _prompt(row, answer, columnar)
    return shape, _single(row, answer)


def _flat_shape(row: dict[str, Any]) -> tuple[str, str, str]:
    """Shape, question key and answer key: the first pair with values, else with a question, else
    with both keys."""
    for flat in _FLAT:
        if row.get(flat[1]) is not None and row.get(flat[2]) is not None:
            return flat
    there = [flat for flat in _FLAT if flat[1] in row and flat[2] in row]
    if not there:
        raise Rejected("unknown_shape")
    return next((flat for flat in there if row[flat[1]] is not None), there[0])


def _single(row: dict[str, Any], answer: str) -> list[Message]:
    """Instruction, optional input below it, answer; earlier exchanges in `history`.

    The input stays in the row: where it ended and the instruction began is worth keeping.
    """
    question = _text(row.pop("instruction"))
    keys = ("input",) if answer == "output" else ("context", "input")
    given = next((key for key in keys if row.get(key) is not None), None)
    below = _text(row[given]) if given else ""
    if given and not below.strip():
        del row[given]
    whole = "\n\n".join(part for part in (question, below) if part.strip())
    return [
        *_history(row.pop("history", None)),
        *_exchange(whole, row.pop(answer)),
    ]


def _exchange(question: str, answer: Any) -> list[Message]:
    if not question.strip():
        raise Rejected("empty_instruction")
    return [
        {"role": "user", "content": question},
        {"role": "assistant", "content": _text(answer)},
    ]


def _history(history: Any) -> list[Message]:
    """Earlier exchanges: a list of [question, answer]."""
    if history is None or history == "":
        return []
    pairs = from_json(history, "bad_history") if type(history) is str else history
    if type(pairs) is not list:
        raise Rejected("bad_history")
    messages = []
    for pair in pairs:
        if type(pair) is not list or len(pair) != 2 or not all(type(p) is str for p in pair):
            raise Rejected("bad_history")
        messages += [
            {"role": "user", "content": pair[0]},
            {"role": "assistant", "content": pair[1]},
        ]
    return messages


def _prompt(row: dict[str, Any], answer: str, columnar: bool) -> list[Message]:
    """Prompt and completion, each text or a list of messages."""
    question, reply = row.pop("prompt"), row.pop(answer)
    if type(question) is not list and type(reply) is not list:
        return _exchange(_text(question), reply)
    before = (
        conversation(question, columnar=columnar)
        if type(question) is list
        else [{"role": "user", "content": _text(question)}]
    )
    after = (
        conversation(reply, columnar=columnar)
        if type(reply) is list
        else [{"role": "assistant", "content": _text(reply)}]
    )
    return before + after


def _text(value: Any) -> str:
    if value is None:
        return ""
    if type(value) is not str:
        raise Rejected("bad_content")
    return value


def _add_system(row: dict[str, Any], messages: list[Message]) -> None:
    """A column with the system prompt becomes the first turn, unless there is one already."""
    for key in _SYSTEMS:
        text = row.get(key)
        if text is None or type(text) not in (str, list):
            continue
        words = text_of(text) or ""
        if not words.strip():
            del row[key]
        elif not (messages and messages[0]["role"] == "system"):
            del row[key]
            messages.insert(0, {"role": "system", "content": words})


def _tools(row: dict[str, Any], columnar: bool) -> list[dict[str, Any]] | None:
    """The tool definitions of a row, from a list, an object or JSON text."""
    for key in _TOOLS:
        value = row.get(key)
        if value is None:
            continue
        del row[key]
        if value == "":
            continue
        tools = tool_list(value, columnar, "bad_tools")
        if tools:
            return tools
    return None


def _licence(row: dict[str, Any]) -> str | None:
    for key in _LICENCES:
        value = row.get(key)
        if type(value) is str and value.strip():
            del row[key]
            return value
    return None
