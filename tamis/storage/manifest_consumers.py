"""What other trainers make of a manifest's rows: which they cannot take as they are, and why.

The rules follow the documentation of these trainers; `docs/manifest.md` lists them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from tamis.samples import Message, decode_messages, decode_tools
from tamis.storage.manifest_rows import single_turn

# What each reason says of a row, as the dataset card tells it.
REASONS = {
    "weights": "weights do not count",
    "train_marks": "answers marked train: false are trained",
    "tools": "tool definitions or tool calls are lost",
    "roles": "questions and answers do not alternate, or another role speaks",
    "no_last_answer": "the last message is no answer",
    "content": "a message has no text",
    "several_turns": "more than one question and answer",
}


def losses(rows: pa.Table) -> dict[str, dict[str, int]]:
    """For each trainer the number of rows that it cannot take, or not as they are meant, by the
    first reason that holds."""
    counts: dict[str, Counter[str]] = {name: Counter() for name in _RULES}
    conversations = zip(decode_messages(rows["messages"]), decode_tools(rows["tools"]), strict=True)
    weights = rows["weight"].to_pylist()
    for (messages, tools), weight in zip(conversations, weights, strict=True):
        for name, rules in _RULES.items():
            reason = next((r for rule in rules for r in rule(messages, tools)), None)
            if reason is None and weight not in (None, 1.0):
                reason = "weights"
            if reason is not None:
                counts[name][reason] += 1
    return {name: dict(sorted(count.items())) for name, count in counts.items()}


def told(found: Mapping[str, Mapping[str, int]]) -> list[str]:
    """One line for each trainer that cannot take all rows."""
    return [
        f"{name}: " + ", ".join(f"{n:,} rows where {REASONS[reason]}" for reason, n in of.items())
        for name, of in found.items()
        if of
    ]


def _marks(messages: Sequence[Message], tools: Any) -> Iterator[str]:
    if any(m["role"] == "assistant" and m.get("train") is False for m in messages):
        yield "train_marks"


def _tools(messages: Sequence[Message], tools: Any) -> Iterator[str]:
    if tools or any(m.get("tool_calls") for m in messages):
        yield "tools"


def _alternating(messages: Sequence[Message], tools: Any) -> Iterator[str]:
    roles = [m["role"] for m in messages]
    spoken = roles[1:] if roles[:1] == ["system"] else roles
    if any(role != ("user", "assistant")[i % 2] for i, role in enumerate(spoken)):
        yield "roles"
    elif len(spoken) % 2:
        yield "no_last_answer"
    if not all(isinstance(m["content"], str) for m in messages):
        yield "content"


def _single(messages: Sequence[Message], tools: Any) -> Iterator[str]:
    if not single_turn(messages, tools):
        yield "several_turns"


_RULES = {
    "trl": (_marks,),
    "LLaMA-Factory": (_tools, _alternating, _marks),
    "LLaMA-Factory, alpaca": (_tools, _marks, _single),
    "axolotl": (),
}
