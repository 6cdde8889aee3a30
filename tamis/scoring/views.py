"""Which text of a conversation a scorer reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import orjson

View = Literal["user", "answer", "all"]
VIEWS: tuple[View, ...] = get_args(View)

_ROLES: Mapping[View, frozenset[str]] = {
    "user": frozenset({"user"}),
    "answer": frozenset({"assistant"}),
    "all": frozenset({"user", "assistant"}),
}


def text(
    messages: Sequence[Mapping[str, Any]],
    view: View,
    *,
    context: bool = False,
    tools: Any = None,
) -> str:
    """The texts of the turns of a view, in order, with a blank line between them.

    `user` and `answer` are the turns of that role, `all` both. System prompts, tool definitions,
    tool calls and tool results are left out: rows that share them would look alike. `context` puts
    them in. Turns without text are skipped, so the result may be empty.
    """
    parts = [] if not context else _json(tools)
    for message in messages:
        if message["role"] in _ROLES[view] or (context and message["role"] in ("system", "tool")):
            parts.append(message.get("content") or "")
            parts.extend(_json(message.get("tool_calls")) if context else [])
    return "\n\n".join(part.strip() for part in parts if part.strip())


def _json(value: Any) -> list[str]:
    return [orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()] if value else []
