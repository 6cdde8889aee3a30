"""The text a chat template makes of a conversation, and where in it the assistant speaks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tamis.errors import TamisError

Messages = Sequence[Mapping[str, Any]]
Chars = tuple[int, int]
_MARKER = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")


class RenderError(TamisError):
    """A row that cannot be rendered as it is meant. `reason` is one word in snake case."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Turn:
    """What an assistant wrote: the index of its message, and its pieces of the text in order.

    A piece is (first, past last) characters. When the template marks generations, the pieces are
    exactly what it marks; else there is one, from the generation prompt to the end of the turn,
    `content_end` is where the content ends in it, and what follows the token that ends the turn
    does not belong to it.
    """

    message: int
    pieces: tuple[Chars, ...]
    content_end: int | None = None


def chat_text(
    messages: Messages, tools: Any, tokenizer: Any, *, generation_prompt: bool = False
) -> str:
    """The text of a conversation. Raises `RenderError` when the template refuses it."""
    template = tokenizer.get_chat_template(None, tools)
    return _apply(template, messages, tools, tokenizer, generation_prompt)[0]


def chat_turns(
    messages: Messages, tools: Any, tokenizer: Any, *, rewritten: bool = False
) -> tuple[str, list[Turn]]:
    """The text of a conversation and its assistant turns, all of them, in order.

    With `rewritten`, turns that the template renders differently once more turns follow are left
    out instead of refused. Raises `RenderError`: see `tamis.language.render`.
    """
    template = tokenizer.get_chat_template(None, tools)
    text, blocks = _apply(template, messages, tools, tokenizer)
    _check_nothing_is_dropped(template, messages, tools, tokenizer, text)
    speakers = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
    if not _MARKER.search(template):
        found = _spans(template, messages, tools, tokenizer, text, speakers, rewritten)
        return text, [_unmarked(text, messages[i], i, span) for i, span in found.items()]
    if _one_each(text, blocks, [messages[i] for i in speakers]):
        return text, [Turn(i, (b,)) for i, b in zip(speakers, blocks, strict=True)]
    spans = _spans(template, messages, tools, tokenizer, text, speakers, rewritten)
    owned = {i: tuple(b for b in blocks if a < b[1] <= z) for i, (a, z) in spans.items()}
    return text, [Turn(i, pieces) for i, pieces in owned.items()]


def _spans(
    template: str,
    messages: Messages,
    tools: Any,
    tokenizer: Any,
    text: str,
    speakers: Sequence[int],
    rewritten: bool,
) -> dict[int, Chars]:
    """Where each assistant turn stands: from its generation prompt to the end of its rendering."""
    spans = {}
    for i in speakers:
        before, _ = _apply(template, messages[:i], tools, tokenizer, True)
        through = text
        if i + 1 < len(messages):
            through, _ = _apply(template, messages[: i + 1], tools, tokenizer)
        if not (through.startswith(before) and text.startswith(through)):
            if rewritten:
                continue
            raise RenderError(
                "rewritten_turns",
                f"message {i}: the chat template renders it differently once the next turn follows",
            )
        spans[i] = (len(before), len(through))
    return spans


def _unmarked(text: str, message: Mapping[str, Any], index: int, span: Chars) -> Turn:
    """The turn of a template without markers. Special tokens in its content do not end it."""
    content = (message.get("content") or "").strip()
    at = text.rfind(content, *span) if content and not message.get("tool_calls") else -1
    return Turn(index, (span,), span[0] if at < 0 else at + len(content))


def _one_each(text: str, blocks: Sequence[Chars], speakers: Messages) -> bool:
    """Whether the marked blocks are one for each assistant turn, judged by their contents."""
    return len(blocks) == len(speakers) and all(
        (m.get("content") or "").strip() in text[slice(*block)]
        for m, block in zip(speakers, blocks, strict=True)
    )


def _check_nothing_is_dropped(
    template: str, messages: Messages, tools: Any, tokenizer: Any, text: str
) -> None:
    """Raise `RenderError` when the text would be the same without tool calls or tool results."""
    if any(m.get("tool_calls") for m in messages):
        bare = [{k: v for k, v in m.items() if k != "tool_calls"} for m in messages]
        if _same(template, bare, tools, tokenizer, text):
            raise RenderError("drops_tool_calls", "the chat template leaves tool calls out")
    if any(m["role"] == "tool" for m in messages):
        bare = [dict(m) for m in messages if m["role"] != "tool"]
        if _same(template, bare, tools, tokenizer, text):
            raise RenderError("drops_tool_results", "the chat template leaves tool results out")


def _same(template: str, messages: Messages, tools: Any, tokenizer: Any, text: str) -> bool:
    try:
        return _apply(template, messages, tools, tokenizer)[0] == text
    except RenderError:
        return False  # the template cannot do without what was taken out


def _apply(
    template: str,
    messages: Messages,
    tools: Any,
    tokenizer: Any,
    generation_prompt: bool = False,
) -> tuple[str, list[Chars]]:
    """The rendered text and the blocks the template marks as generated.

    As `apply_chat_template` does it: keys without a value are left out, BOS is not added.
    """
    from jinja2 import TemplateError
    from transformers.utils.chat_template_utils import render_jinja_template

    given = [{k: v for k, v in m.items() if v is not None and k != "train"} for m in messages]
    marked = _MARKER.search(template) is not None
    try:
        texts, blocks = render_jinja_template(
            conversations=[given],
            tools=tools,
            chat_template=template,
            return_assistant_tokens_mask=marked,
            add_generation_prompt=generation_prompt,
            **tokenizer.special_tokens_map,
        )
    except (TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
        line = " ".join(str(error).split())[:200]
        raise RenderError("template_failed", f"the chat template refuses it: {line}") from error
    return texts[0], blocks[0] if marked else []
