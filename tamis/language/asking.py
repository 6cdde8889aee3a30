"""A model that is asked in words: behind a server, or with its weights here. Both reply alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from tamis.errors import RecipeError
from tamis.language import endpoint, load
from tamis.language.choices import after
from tamis.language.endpoint import Client, NoReply, Prompt, plain, turns
from tamis.language.forward import Engine
from tamis.language.render import prompt as rendered
from tamis.language.replies import Reply
from tamis.language.sample import sample, stops
from tamis.language.template import RenderError
from tamis.numerics.options import LEAST_MASS
from tamis.recipe import Model


class Asker(Protocol):
    """What `Client` and `Local` have in common."""

    def ask(
        self,
        prompts: Sequence[Prompt],
        *,
        max_tokens: int,
        among: Sequence[str] = (),
        cue: str = "",
        done: Callable[[int], None] | None = None,
    ) -> list[Reply | NoReply]:
        """The most probable replies, in order: see `Client.ask`."""
        ...

    def excess(self, prompt: Prompt, max_tokens: int, cue: str) -> int:
        """How many tokens a prompt has more than leave room for `max_tokens`, as far as known."""
        ...


def check(model: Model, user: str, max_tokens: int) -> None:
    """Raise if the weights are not here or read no more than the reply takes, or if the endpoint
    lacks its key; loads nothing."""
    if max_tokens < 1:
        raise RecipeError(f"{user} writes up to {max_tokens} tokens: let it write 1 or more")
    if model.endpoint is not None:
        endpoint.check(model, user)
        return
    load.check(model)
    if max_tokens >= load.max_length(model):
        raise RecipeError(
            f"{user} writes up to {max_tokens} tokens, and {model.location} takes "
            f"{load.max_length(model)} in all: another model, or fewer tokens"
        )


def identity(model: Model) -> dict[str, Any]:
    """What determines the replies."""
    return load.identity(model) if model.endpoint is None else endpoint.identity(model)


def opened(model: Model, device: str) -> Asker:
    """The one that asks this model; weights are loaded with the first question."""
    return Local(model, device) if model.endpoint is None else Client(model)


class Local:
    """Asks a model whose weights are here, and replies as a server would."""

    def __init__(self, model: Model, device: str) -> None:
        """Chat style goes through the chat template, plain style joins texts by blank lines."""
        self._engine = Engine(model, device)

    def ask(
        self,
        prompts: Sequence[Prompt],
        *,
        max_tokens: int,
        among: Sequence[str] = (),
        cue: str = "",
        done: Callable[[int], None] | None = None,
    ) -> list[Reply | NoReply]:
        """See `Client.ask`. Where the texts `among` have a hundredth of the next token's
        probability together, the reply is the likeliest of them with the log-probabilities of all,
        by one forward pass; else it is written. Prompts that leave no room lose their left."""
        replies: list[Reply | NoReply] = [NoReply("")] * len(prompts)
        ids: dict[int, list[int]] = {}
        room = self._engine.max_length - max_tokens
        for i, asked in enumerate(prompts):
            try:
                ids[i] = self._ids(asked, cue)[-room:]
            except RenderError as error:
                replies[i] = NoReply(error.reason)
        left = list(ids)
        if among:
            for i, reply in zip(left, self._likely([ids[i] for i in left], among), strict=True):
                replies[i] = reply or replies[i]
            left = [i for i in left if not isinstance(replies[i], Reply)]
        tell = done or (lambda _: None)
        tell(len(prompts) - len(left))
        texts = self._written([ids[i] for i in left], max_tokens, tell)
        for i, text in zip(left, texts, strict=True):
            replies[i] = text
        return replies

    def excess(self, prompt: Prompt, max_tokens: int, cue: str) -> int:
        """See `Asker`; 0 where the template refuses, which `ask` tells."""
        try:
            return len(self._ids(prompt, cue)) + max_tokens - self._engine.max_length
        except RenderError:
            return 0

    def _ids(self, asked: Prompt, cue: str) -> list[int]:
        tokenizer = self._engine.tokenizer
        if self._engine.model.prompt_style == "plain":
            ids: list[int] = tokenizer(plain(asked, cue), verbose=False)["input_ids"]
            return ids
        given = turns(asked)
        try:
            return rendered(given, None, tokenizer, prompt_style="chat")
        except RenderError:
            # Some templates know no system prompt.
            if given[0]["role"] != "system" or len(given) < 2:
                raise
            both = "\n\n".join(turn["content"] for turn in given[:2])
            merged = [{"role": "user", "content": both}, *given[2:]]
            return rendered(merged, None, tokenizer, prompt_style="chat")

    def _likely(self, prompts: Sequence[Sequence[int]], among: Sequence[str]) -> list[Reply | None]:
        """The likeliest of the texts, each with a space before it or none, where one is likely."""
        spelt: dict[str, int] = {}
        for form in [f"{space}{text}" for text in among for space in ("", " ")]:
            coded = self._engine.tokenizer(form, add_special_tokens=False)["input_ids"]
            if len(coded) == 1 and coded[0] not in spelt.values():
                spelt[form] = coded[0]
        if {form.strip() for form in spelt} != set(among):
            return [None] * len(prompts)
        tokens = np.tile(np.array(list(spelt.values()), dtype=np.int64), (len(prompts), 1))
        found = after(self._engine, prompts, tokens)
        forms = list(spelt)
        return [
            Reply(best, ((best, dict(zip(forms, row.tolist(), strict=True))),))
            if np.exp(row).sum() >= LEAST_MASS
            else None
            for row in found
            for best in [forms[int(row.argmax())]]
        ]

    def _written(
        self, prompts: Sequence[Sequence[int]], max_tokens: int, advance: Callable[[int], None]
    ) -> list[Reply]:
        found = sample(
            self._engine,
            prompts,
            [""] * len(prompts),
            count=1,
            stops=stops(self._engine),
            max_new_tokens=max_tokens,
            temperature=0.0,
            top_p=1.0,
            seed=0,
            advance=advance,
        )
        decode = self._engine.tokenizer.decode
        return [
            Reply(decode(answer.ids, skip_special_tokens=True), (), answer.ended)
            for (answer,) in found
        ]
