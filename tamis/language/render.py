"""Conversations as token ids, and which of these tokens carry loss.

Chat style goes through the tokenizer's own chat template: what carries loss of an assistant turn
is everything after its generation prompt, up to and including the token that ends the turn. Plain
style joins the contents by blank lines and ends every answer with EOS.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any

import orjson

from tamis.errors import TamisError
from tamis.language.covering import Tokens
from tamis.language.template import Messages, RenderError, chat_text, chat_turns


@dataclass(frozen=True, slots=True)
class Rendered:
    """One conversation as the model reads it.

    `labelled` tells of each token of `ids` whether it carries loss. `spans` are the (first, past
    last) token positions of the assistant turns that are trained, in order, and `turns` the index
    of the message behind each span.
    """

    ids: list[int]
    labelled: list[bool]
    spans: list[tuple[int, int]]
    turns: list[int]


def render(messages: Messages, tools: Any, tokenizer: Any, *, prompt_style: str) -> Rendered:
    """Render a conversation; assistant turns carry loss unless they are marked `train: false`.

    `tools` is the list of tool definitions, or None. In chat style the text comes from the
    tokenizer's chat template and is tokenised as a whole, without adding BOS: a template that wants
    one writes it. A token that straddles the start of an answer carries loss. In plain style prompt
    and answer are tokenised apart, so an answer has the same ids whatever stands before it; BOS
    comes first if the tokenizer puts it there by itself. A conversation without a trained turn has
    no spans.

    Raises `RenderError` for rows that would train something else than what they say; reasons:
    `empty_answer`, `template_failed`, `rewritten_turns` (an earlier turn is rendered differently
    once more turns follow), `no_end_of_turn` (the token that ends the turn would carry no loss),
    `drops_tool_calls`, `drops_tool_results` (the template leaves them out). Cost: one rendering and
    one tokenisation when the template marks generations, else two renderings more a turn.
    """
    for i in _trained(messages):
        if not (messages[i].get("content") or "").strip() and not messages[i].get("tool_calls"):
            raise RenderError("empty_answer", f"message {i}: an assistant turn without content")
    if prompt_style == "plain":
        return _plain(messages, tools, tokenizer)
    if prompt_style == "chat":
        return _chat(messages, tools, tokenizer)
    raise TamisError(f"prompt_style {prompt_style!r} is not known: expected chat or plain")


def renderings(
    messages: Messages, tools: Any, tokenizer: Any, *, prompt_style: str
) -> list[Rendered]:
    """A conversation as what a trainer reads: `render`, or several where the template rewrites.

    Some templates render an earlier turn differently once more turns follow: they leave its
    reasoning out, say. The model writes such a turn as it stands when nothing follows it, so the
    conversation is split there: each part is a beginning of the conversation that ends with an
    answer and trains that answer, and those before it that stand as the model wrote them and that
    no longer part trains. Every trained turn is trained in exactly one part; parts come in order.

    Raises `RenderError` as `render` does; `rewritten_turns` only where a turn is not even the last
    of its own rendering. Cost: at most a rendering of the conversation a turn, each as `render`.
    """
    waiting = _trained(messages)
    try:
        return [render(messages, tools, tokenizer, prompt_style=prompt_style)]
    except RenderError as error:
        if error.reason != "rewritten_turns":
            raise
        refused = error
    if not waiting:
        return [_chat(messages, tools, tokenizer, waiting)]
    parts: list[Rendered] = []
    end = len(messages)
    while waiting:
        part = _chat(messages[:end], tools, tokenizer, waiting)
        if part.turns:
            parts.append(part)
            waiting = [turn for turn in waiting if turn not in part.turns]
        elif end == waiting[-1] + 1:
            raise refused
        end = waiting[-1] + 1 if waiting else end
    return parts[::-1]


def cut(rendered: Rendered, max_length: int) -> tuple[Rendered, bool]:
    """Keep the first `max_length` tokens, and say whether any were cut off.

    Spans are clipped; those of which nothing is left are dropped.
    """
    if len(rendered.ids) <= max_length:
        return rendered, False
    kept = [
        ((start, min(stop, max_length)), turn)
        for (start, stop), turn in zip(rendered.spans, rendered.turns, strict=True)
        if start < max_length
    ]
    shorter = Rendered(
        rendered.ids[:max_length],
        rendered.labelled[:max_length],
        [span for span, _ in kept],
        [turn for _, turn in kept],
    )
    return shorter, True


def prompt(messages: Messages, tools: Any, tokenizer: Any, *, prompt_style: str) -> list[int]:
    """The token ids a model is given to write the next assistant turn after `messages`.

    They are the ids that stand before that turn in `render`; in chat style, up to a token that
    straddles the boundary. Raises `RenderError` when the template refuses.
    """
    if prompt_style == "plain":
        before = _plain(messages, tools, tokenizer).ids
        follows = bool(messages) and messages[-1]["role"] == "assistant"
        return [*before, *_encode(tokenizer, "\n\n")] if follows else before
    text = chat_text(messages, tools, tokenizer, generation_prompt=True)
    return _encode(tokenizer, text)


def neutral_template() -> str:
    """A chat template for tokenizers that have none: plain-text role tags, turns that end in EOS.

    It has generation markers and renders tools, tool calls and tool results; it needs no new
    tokens. Used only where a user sets it as a tokenizer's `chat_template`.
    """
    return resources.files("tamis.language").joinpath("neutral.jinja").read_text(encoding="utf-8")


@lru_cache(maxsize=16)
def special_ids(tokenizer: Any) -> frozenset[int]:
    """The ids of the tokenizer's special tokens, whether it gives them a name or not."""
    added = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return frozenset(added | set(tokenizer.all_special_ids))


def _trained(messages: Messages) -> list[int]:
    """The positions of the assistant turns that carry loss."""
    return [
        i
        for i, m in enumerate(messages)
        if m["role"] == "assistant" and m.get("train") is not False
    ]


def _chat(
    messages: Messages, tools: Any, tokenizer: Any, only: Sequence[int] | None = None
) -> Rendered:
    """With `only`, of these turns those that the template does not rewrite."""
    text, turns = chat_turns(messages, tools, tokenizer, rewritten=only is not None)
    if not tokenizer.is_fast:
        raise TamisError("chat rendering needs a fast tokenizer (tokenizer.json), given a slow one")
    coded = tokenizer(
        text,
        add_special_tokens=False,
        return_offsets_mapping=True,
        return_attention_mask=False,
        verbose=False,
    )
    tokens = Tokens(text, coded["input_ids"], coded["offset_mapping"], special_ids(tokenizer))
    trained = set(_trained(messages) if only is None else only)
    labelled = [False] * len(tokens.ids)
    spans, kept = [], []
    for turn in turns:
        if turn.message not in trained:
            continue
        pieces = tokens.pieces(turn)
        for start, stop in pieces:
            labelled[start:stop] = [True] * (stop - start)
        spans.append((pieces[0][0], pieces[-1][1]))
        kept.append(turn.message)
    return Rendered(tokens.ids, labelled, spans, kept)


@dataclass(frozen=True, slots=True)
class _Segment:
    """A stretch of plain text, and the message that answers with it (-1: nobody's answer)."""

    text: str
    message: int = -1


def _plain(messages: Messages, tools: Any, tokenizer: Any) -> Rendered:
    if tokenizer.eos_token_id is None:
        raise TamisError("prompt_style plain ends answers with EOS, and the tokenizer has no EOS")
    segments = list(_segments(messages, tools))
    texts = [segment.text for segment in segments]
    coded = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else []
    trained = set(_trained(messages))
    ids = list(_bos(tokenizer))
    spans, turns = [], []
    for segment, more in zip(segments, coded, strict=True):
        start = len(ids)
        ids += more
        if segment.message >= 0:
            ids.append(tokenizer.eos_token_id)
        if segment.message in trained:
            spans.append((start, len(ids)))
            turns.append(segment.message)
    labelled = [False] * len(ids)
    for start, stop in spans:
        labelled[start:stop] = [True] * (stop - start)
    return Rendered(ids, labelled, spans, turns)


def _segments(messages: Messages, tools: Any) -> Iterator[_Segment]:
    """The contents in order; those between two answers in one piece, with the blank lines."""
    waiting = [orjson.dumps(tools).decode()] if tools else []
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            waiting.append(_paragraph(message))
            continue
        if waiting:
            yield _Segment("\n\n".join(waiting) + "\n\n")
        yield _Segment(_paragraph(message), i)
        waiting = [""]  # EOS, then the blank line that joins
    if len(waiting) > 1 or (waiting and waiting[0]):
        yield _Segment("\n\n".join(waiting) + "\n\n")


def _paragraph(message: Mapping[str, Any]) -> str:
    """The content; tool calls follow as JSON, so that none is lost."""
    calls = message.get("tool_calls")
    parts = [message.get("content") or "", orjson.dumps(calls).decode() if calls else ""]
    return "\n\n".join(part for part in parts if part)


def _encode(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


@lru_cache(maxsize=16)
def _bos(tokenizer: Any) -> tuple[int, ...]:
    """BOS, if the tokenizer puts it before a text by itself."""
    bos = tokenizer.bos_token_id
    first = tokenizer("a")["input_ids"][:1]
    return (bos,) if bos is not None and first == [bos] else ()
