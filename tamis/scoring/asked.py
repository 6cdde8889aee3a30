"""Rows as texts for a served model, whose tokenizer is not known here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_SPEAKERS = {"user": "User", "assistant": "Assistant", "system": "System", "tool": "Tool result"}
_GAP = "\n[...]\n"


def conversation(messages: Sequence[Mapping[str, Any]]) -> str:
    """The turns that have text, each behind the name of its speaker."""
    turns = [(m["role"], (m.get("content") or "").strip()) for m in messages]
    return "\n\n".join(f"{_SPEAKERS[role]}: {text}" for role, text in turns if text)


def shortened(text: str, most: int) -> tuple[str, bool]:
    """At most `most` characters, without the middle of a longer text; and whether it was cut."""
    if len(text) <= most:
        return text, False
    kept = most - len(_GAP)
    tail = kept // 2
    return text[: kept - tail] + _GAP + text[len(text) - tail :], True
