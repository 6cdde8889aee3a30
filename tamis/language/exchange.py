"""A conversation as one request and the answer to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

NO_ANSWER = "no_text_answer"
NO_REQUEST = "no_request"

_SPEAKERS = {"system": "System", "user": "User", "assistant": "Assistant", "tool": "Tool"}


@dataclass(frozen=True, slots=True)
class Exchange:
    """The last answer that has text: its `message`, all messages `before` it, the same as one text
    `request`, and the messages `after` it."""

    before: Sequence[Mapping[str, Any]]
    request: str
    message: Mapping[str, Any]
    after: Sequence[Mapping[str, Any]]

    @property
    def answer(self) -> str:
        """Its text."""
        return str(self.message["content"])

    def answered(self, text: str) -> list[Mapping[str, Any]]:
        """The conversation with another answer in its place; all else as it was."""
        return [*self.before, {**self.message, "content": text}, *self.after]


def exchange(messages: Sequence[Mapping[str, Any]], tools: Any) -> Exchange | str:
    """The request and the answer of a conversation, or the reason why it has none."""
    turns = [i for i, m in enumerate(messages) if m["role"] == "assistant" and _text(m)]
    if not turns:
        return NO_ANSWER
    last = turns[-1]
    before = messages[:last]
    if not any(m["role"] == "user" and _text(m) for m in before):
        return NO_REQUEST
    return Exchange(before, _request(before, tools), messages[last], messages[last + 1 :])


def _request(messages: Sequence[Mapping[str, Any]], tools: Any) -> str:
    """A single question is its text; of anything longer it is said who speaks."""
    if len(messages) == 1 and not tools:
        return str(messages[0]["content"]).strip()
    parts = [f"Tools: {orjson.dumps(tools).decode()}"] if tools else []
    for message in messages:
        calls = message.get("tool_calls")
        said = [_text(message), orjson.dumps(calls).decode() if calls else ""]
        parts.append(f"{_SPEAKERS[message['role']]}: " + "\n".join(s for s in said if s))
    return "\n\n".join(parts)


def _text(message: Mapping[str, Any]) -> str:
    return str(message.get("content") or "").strip()
