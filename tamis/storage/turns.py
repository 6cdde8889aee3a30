"""Turns of a conversation, from the ways people write them to role and content."""

from __future__ import annotations

from typing import Any

import orjson

from tamis.samples import ROLES, Message

# Other names of the four roles, lower case: chat APIs, ShareGPT dumps, trainers' data formats.
ROLE_NAMES = {
    **{role: role for role in ROLES},
    "developer": "system",
    "human": "user",
    "gpt": "assistant",
    "ai": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "chatgpt": "assistant",
    "bard": "assistant",
    "bing": "assistant",
    "claude": "assistant",
    "function_call": "assistant",
    "tool_call": "assistant",
    "observation": "tool",
    "function": "tool",
    "function_response": "tool",
    "tool_response": "tool",
    "ipython": "tool",
}
_CALLERS = ("function_call", "tool_call")


class Rejected(Exception):
    """A row cannot be a sample; the message is the reason code."""

    @property
    def reason(self) -> str:
        """Why, as a snake_case code."""
        return str(self.args[0])


def conversation(turns: Any, *, columnar: bool) -> list[Message]:
    """The messages of a list of turns (role/content or from/value); raises `Rejected`.

    Keys without a value are left out; all others are kept. With `columnar` the row comes from
    columns, where every struct has every key: nulls inside tool calls are then no content either.
    """
    if isinstance(turns, str):  # a list written as text, as in CSV
        turns = from_json(turns, "bad_messages")
    if type(turns) is not list:
        raise Rejected("bad_messages")
    return [_turn(turn, columnar) for turn in turns]


def _turn(turn: Any, columnar: bool) -> Message:
    if type(turn) is not dict:
        raise Rejected("bad_messages")
    if len(turn) == 2:  # most turns of most data
        role, text = turn.get("role"), turn.get("content")
        if type(text) is str and role in ROLES:
            return turn
        speaker, text = turn.get("from"), turn.get("value")
        if type(text) is str and speaker in ("human", "gpt"):
            return {"role": ROLE_NAMES[speaker], "content": text}
    message = {key: value for key, value in turn.items() if value is not None}
    written = message.pop("role" if "role" in message else "from", None)
    content = text_of(message.pop("content" if "content" in message else "value", None))
    if type(written) is not str:
        raise Rejected("bad_role")
    name = written.strip().lower()
    role = ROLE_NAMES.get(name)
    if role is None:
        raise Rejected("bad_role")
    if len(message) == 0 and name not in _CALLERS:
        return {"role": role, "content": content}
    message = {"role": role, "content": content, **message}
    if name in _CALLERS:
        _calls_in_content(message)
    _check_keys(message, columnar)
    return message


def text_of(content: Any) -> str | None:
    """Content as text: a string, null, or a list of parts that are all text, put together."""
    if content is None or type(content) is str:
        return content
    if type(content) is not list:
        raise Rejected("bad_content")
    parts = [part.get("text") if _is_text_part(part) else part for part in content]
    if not all(type(part) is str for part in parts):
        raise Rejected("non_text_content")
    return "".join(parts)


def _is_text_part(part: Any) -> bool:
    return type(part) is dict and part.get("type", "text") in ("text", "input_text", "output_text")


def _calls_in_content(message: Message) -> None:
    """ShareGPT writes a call as a turn of its own whose text is JSON; text that is not stays."""
    try:
        calls = from_json(message["content"] or "", "")
    except Rejected:
        return
    calls = calls if type(calls) is list else [calls]
    if calls and all(type(c) is dict and type(c.get("name")) is str for c in calls):
        message["content"] = None
        message["tool_calls"] = [{"type": "function", "function": call} for call in calls]


def _check_keys(message: Message, columnar: bool) -> None:
    """Bring the keys that have a meaning into their types; raise where they cannot be."""
    legacy = message.get("function_call")
    if type(legacy) is dict and "tool_calls" not in message:
        message["tool_calls"] = [{"type": "function", "function": message.pop("function_call")}]
    calls = message.get("tool_calls")
    if calls is not None:
        message["tool_calls"] = tool_list(calls, columnar, "bad_tool_calls")
    for key in ("name", "tool_call_id"):
        if type(message.get(key, "")) is not str:
            raise Rejected("bad_" + key)
    train = message.get("train", True)
    if train not in (0, 1) or type(train) not in (bool, int):
        raise Rejected("bad_train")
    if "train" in message:
        message["train"] = bool(train)


def tool_list(value: Any, columnar: bool, reason: str) -> list[dict[str, Any]]:
    """Tool calls or definitions as a list of objects; text that holds JSON is read."""
    if type(value) is str:
        value = from_json(value, reason)
    if type(value) is dict:
        value = [value]
    if type(value) is not list:
        raise Rejected(reason)
    items = [from_json(item, reason) if type(item) is str else item for item in value]
    if not all(type(item) is dict for item in items):
        raise Rejected(reason)
    return [without_nulls(item) for item in items] if columnar else items


def without_nulls(value: Any) -> Any:
    """`value` without the keys that have no value, at any depth."""
    if type(value) is dict:
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if type(value) is list:
        return [without_nulls(item) for item in value]
    return value


def from_json(text: str, reason: str) -> Any:
    """The value of JSON text inside a row; raises `Rejected` for this reason."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise Rejected(reason) from error


def check_answers(messages: list[Message]) -> None:
    """Raise `Rejected` unless there is an answer, none is empty, and every turn has content."""
    answers = [m for m in messages if m["role"] == "assistant"]
    if not answers:
        raise Rejected("no_assistant")
    # A model trained on one blank turn learns to say nothing, wherever the turn stands.
    if any(
        not (m["content"] and m["content"].strip()) and not m.get("tool_calls") for m in answers
    ):
        raise Rejected("empty_answer")
    for message in messages:
        if message["content"] is None and not (
            message["role"] == "assistant" and message.get("tool_calls")
        ):
            raise Rejected("bad_content")
