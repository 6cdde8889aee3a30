"""Rows as texts for a model that is asked about them, cut to what it reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tamis.language.asking import Asker
from tamis.language.endpoint import Prompt

_SPEAKERS = {"user": "User", "assistant": "Assistant", "system": "System", "tool": "Tool result"}
_GAP = "\n[...]\n"
# Less than this of a text is not worth asking about.
LEAST_CHARS = 40


def conversation(messages: Sequence[Mapping[str, Any]]) -> str:
    """The turns that have text, each behind the name of its speaker."""
    turns = [(m["role"], (m.get("content") or "").strip()) for m in messages]
    return "\n\n".join(f"{_SPEAKERS[role]}: {text}" for role, text in turns if text)


def fitted(
    asker: Asker,
    asked: Callable[[str], Prompt],
    text: str,
    *,
    max_chars: int,
    max_tokens: int,
    cue: str,
) -> tuple[Prompt, float]:
    """What is `asked` about a text, and the share of its characters that was left out: what is more
    than `max_chars`, and where the tokenizer is known, what leaves no room for `max_tokens`."""
    short, cut = shortened(text, max_chars)
    prompt = asked(short)
    over = asker.excess(prompt, max_tokens, cue)
    if over <= 0:
        return prompt, cut
    room = -asker.excess(asked(""), max_tokens, cue)
    while over > 0 and len(short) > LEAST_CHARS:
        # As many characters as the tokens that there is room for, a few less for the gap.
        most = int(len(short) * room / (room + over)) - len(_GAP)
        short, cut = shortened(text, max(LEAST_CHARS, most))
        prompt = asked(short)
        over = asker.excess(prompt, max_tokens, cue)
    return prompt, cut


def shortened(text: str, most: int) -> tuple[str, float]:
    """At most `most` characters, without the middle of a longer text; and the share left out."""
    if len(text) <= most:
        return text, 0.0
    kept = most - len(_GAP)
    tail = kept // 2
    return text[: kept - tail] + _GAP + text[len(text) - tail :], 1 - kept / len(text)
