"""What a refiner is, and what it tells of every row it looked at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np

from tamis.language.endpoint import Client
from tamis.language.exchange import Exchange, exchange
from tamis.language.forward import Engine, Pass
from tamis.language.render import prompt, render
from tamis.language.replies import Reply
from tamis.language.sample import sample, stops
from tamis.language.template import RenderError
from tamis.recipe import Model

Advance = Callable[[int], None]
Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Row:
    """A conversation with its content key."""

    key: str
    messages: Messages
    tools: Any


@dataclass(frozen=True, slots=True)
class Refined:
    """What became of a row.

    `action` None leaves the row to its standing. `messages` None leaves it byte for byte as it was;
    else they are the whole conversation, with `after` in the place of `before`. `candidate` is the
    text that was tried last, taken or not, and `confidences` all that spoke for or against it.
    """

    action: str | None
    reason: str
    messages: Messages | None = None
    before: str | None = None
    after: str | None = None
    candidate: str | None = None
    confidences: Mapping[str, float | str | None] = field(default_factory=dict)


class Refiner(Protocol):
    """Gives rows better answers. A frozen dataclass: its models, the device, and its options.

    `version` is raised by hand when the outcome changes.
    """

    name: ClassVar[str]
    version: ClassVar[int]

    def needs(self) -> frozenset[str]:
        """The columns it reads of all rows."""
        ...

    def identity(self) -> Mapping[str, Any]:
        """Everything that determines the outcome; JSON-like, never a path."""
        ...

    def check(self) -> None:
        """Raise a `TamisError` if options or models cannot be; loads no weights."""
        ...

    def standing(self, columns: Mapping[str, np.ndarray], n: int) -> tuple[np.ndarray, np.ndarray]:
        """The action of each of n rows if nothing better is found, and which to look at, bool."""
        ...

    def refine(self, rows: Sequence[Row], *, advance: Advance) -> list[Refined]:
        """One outcome a row, in order. It depends on the row alone."""
        ...


@dataclass(frozen=True, slots=True)
class Written:
    """A text the model wrote; `ended` is False where it was cut off."""

    text: str
    ended: bool


Writer = Engine | Client


def writer(model: Model, device: str) -> Writer:
    """The one that writes with this model: its weights here, or the server it is behind."""
    return Engine(model, device) if model.endpoint is None else Client(model)


def judging(judge: Model, model: Model, device: str, writing: Writer) -> Engine:
    """The engine of a judge; that of the writer where both are one model with its weights here."""
    if judge == model and isinstance(writing, Engine):
        return writing
    return Engine(judge, device)


def write(
    engine: Writer,
    rows: Sequence[tuple[Messages, Any]],
    *,
    max_new_tokens: int,
    advance: Advance = lambda _: None,
) -> list[Written | None]:
    """The most probable answer to each of the rows (messages before it, tools); None where the
    template or the server refuses them. Requests that leave no room for the answer are cut from
    their left. A server is asked about rows without tools only."""
    if isinstance(engine, Client):
        return _served(engine, rows, max_new_tokens, advance)
    room = engine.max_length - max_new_tokens
    prompts: dict[int, list[int]] = {}
    for i, (messages, tools) in enumerate(rows):
        try:
            ids = prompt(messages, tools, engine.tokenizer, prompt_style=engine.model.prompt_style)
        except RenderError:
            continue
        if ids:
            prompts[i] = ids[-room:]
    advance(len(rows) - len(prompts))
    found = sample(
        engine,
        list(prompts.values()),
        [""] * len(prompts),
        count=1,
        stops=stops(engine),
        max_new_tokens=max_new_tokens,
        temperature=0.0,
        top_p=1.0,
        seed=0,
        advance=advance,
    )
    written: list[Written | None] = [None] * len(rows)
    for i, (answer,) in zip(prompts, found, strict=True):
        text = engine.tokenizer.decode(answer.ids, skip_special_tokens=True).strip()
        written[i] = Written(text, answer.ended)
    return written


def _served(
    client: Client, rows: Sequence[tuple[Messages, Any]], max_new_tokens: int, advance: Advance
) -> list[Written | None]:
    prompts = {
        i: [{"role": m["role"], "content": m["content"] or ""} for m in messages]
        for i, (messages, tools) in enumerate(rows)
        if not tools and not any(m["role"] == "tool" or m.get("tool_calls") for m in messages)
    }
    advance(len(rows) - len(prompts))
    replies = client.ask(list(prompts.values()), max_tokens=max_new_tokens, done=advance)
    written: list[Written | None] = [None] * len(rows)
    for i, reply in zip(prompts, replies, strict=True):
        if isinstance(reply, Reply):
            written[i] = Written(reply.text.strip(), reply.ended)
    return written


def logprobs(engine: Engine, rows: Sequence[Messages], tools: Sequence[Any]) -> list[float | None]:
    """The mean log-probability a token of the last answer of each conversation; None where it
    cannot be rendered or lies behind the cut-off."""
    passes: dict[int, Pass] = {}
    for i, (messages, offered) in enumerate(zip(rows, tools, strict=True)):
        pair = exchange(messages, offered)
        if isinstance(pair, Exchange):
            found = _pass(engine, [*pair.before, {**pair.message, "train": True}], offered)
            passes |= {} if found is None else {i: found}
    values = engine.logprobs(list(passes.values()))
    means = {i: float(v.mean()) for i, v in zip(passes, values, strict=True)}
    return [means.get(i) for i in range(len(rows))]


def _pass(engine: Engine, messages: Messages, tools: Any) -> Pass | None:
    try:
        whole = render(messages, tools, engine.tokenizer, prompt_style=engine.model.prompt_style)
    except RenderError:
        return None
    start, stop = whole.spans[-1]
    targets = np.arange(max(start, 1), min(stop, engine.max_length))
    return Pass(whole.ids[: engine.max_length], targets) if len(targets) else None
