"""Answers of the model's own to the requests of a pool, and how like they are to the given ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np

from tamis.language.entail import Entailment
from tamis.language.exchange import Exchange
from tamis.language.forward import Engine
from tamis.language.render import prompt
from tamis.language.sample import sample, stops
from tamis.language.template import RenderError
from tamis.scoring.base import Advance
from tamis.scoring.clear import similarity
from tamis.scoring.encoder import Encoder

Measure = Literal["nli", "embedding", "jaccard"]


class Drawn(NamedTuple):
    """The texts sampled for each row, none where its request cannot be rendered, and how many of
    them reached the limit without an end, int64 (n,)."""

    texts: list[list[str]]
    unfinished: np.ndarray


def draw(
    engine: Engine,
    rows: Sequence[tuple[Exchange, Any]],
    names: Sequence[str],
    *,
    count: int,
    temperature: float,
    top_p: float,
    max_new_tokens: int,
    seed: int,
    advance: Advance,
) -> Drawn:
    """Sample `count` answers to the request of each row (exchange, tools), stripped.

    A request that leaves no room for `max_new_tokens` is cut from its left.
    """
    tokenizer, style = engine.tokenizer, engine.model.prompt_style
    room = engine.max_length - max_new_tokens
    prompts: dict[int, list[int]] = {}
    for i, (pair, tools) in enumerate(rows):
        try:
            prompts[i] = prompt(pair.before, tools, tokenizer, prompt_style=style)[-room:]
        except RenderError:
            continue
    advance(len(rows) - len(prompts))
    found = sample(
        engine,
        list(prompts.values()),
        [names[i] for i in prompts],
        count=count,
        stops=stops(engine),
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        advance=advance,
    )
    texts: list[list[str]] = [[] for _ in rows]
    unfinished = np.zeros(len(rows), dtype=np.int64)
    for i, answers in zip(prompts, found, strict=True):
        texts[i] = [tokenizer.decode(a.ids, skip_special_tokens=True).strip() for a in answers]
        unfinished[i] = sum(not a.ended for a in answers)
    return Drawn(texts, unfinished)


@dataclass(frozen=True)
class Comparison:
    """A measure of likeness with its model: a classifier for `nli`, an encoder for `embedding`."""

    measure: Measure
    model: str | None
    device: str

    def identity(self) -> Any:
        """The measure and its model by content."""
        if self.measure == "jaccard":
            return "jaccard"
        return {
            self.measure: self._entailment.identity() if self._nli else self._encoder.identity()
        }

    def check(self) -> None:
        """Raise if its model is missing."""
        if self._nli:
            self._entailment.check()
        elif self.measure == "embedding":
            self._encoder.check()

    @property
    def warnings(self) -> list[str]:
        """Those of the encoder."""
        return self._encoder.warnings if self.measure == "embedding" else []

    def of(self, given: Sequence[str], sampled: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """s in [0, 1] of each pair, float64 (m,), and the share of its texts that was not read.

        1 where the texts are equal but for white space, 0 where nothing was sampled.
        """
        found = np.zeros(len(given))
        cut = np.zeros(len(given))
        equal = [similarity.same(a, b) for a, b in zip(given, sampled, strict=True)]
        found[equal] = 1.0
        left = [i for i, same in enumerate(equal) if not same and sampled[i].strip()]
        if left:
            pairs = [(given[i], sampled[i]) for i in left]
            found[left], cut[left] = _MEASURES[self.measure](self, pairs)
        return found, cut

    def _inference(self, pairs: list[tuple[str, str]]) -> tuple[np.ndarray, np.ndarray]:
        both = [*pairs, *((b, a) for a, b in pairs)]
        p, cut = self._entailment.contradicted(both)
        n = len(pairs)
        return similarity.entailed(p[:n], p[n:]), np.maximum(cut[:n], cut[n:])

    def _vectors(self, pairs: list[tuple[str, str]]) -> tuple[np.ndarray, np.ndarray]:
        texts = list(dict.fromkeys(text for pair in pairs for text in pair))
        at = {text: i for i, text in enumerate(texts)}
        vectors, cut = self._encoder.encode(texts)
        a, b = (np.array([at[pair[side]] for pair in pairs]) for side in (0, 1))
        return similarity.cosine(vectors[a], vectors[b]), np.maximum(cut[a], cut[b])

    def _words(self, pairs: list[tuple[str, str]]) -> tuple[np.ndarray, np.ndarray]:
        return np.array([similarity.jaccard(*p) for p in pairs]), np.zeros(len(pairs))

    @property
    def _nli(self) -> bool:
        return self.measure == "nli"

    @cached_property
    def _entailment(self) -> Entailment:
        return Entailment(self.model or "", self.device)

    @cached_property
    def _encoder(self) -> Encoder:
        return Encoder(self.model, self.device, "clear")


_Measured = tuple[np.ndarray, np.ndarray]
_MEASURES: dict[Measure, Callable[[Comparison, list[tuple[str, str]]], _Measured]] = {
    "nli": Comparison._inference,
    "embedding": Comparison._vectors,
    "jaccard": Comparison._words,
}
