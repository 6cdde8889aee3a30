"""What a model itself thinks of its training rows: six marks from 0 to 10 (MIDDO)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from tamis import samples
from tamis.errors import RecipeError
from tamis.language import asking
from tamis.language.asking import Asker
from tamis.language.endpoint import Prompt
from tamis.language.replies import Reply
from tamis.recipe import Model
from tamis.scoring.asked import fitted, shortened
from tamis.scoring.base import Advance, Columns
from tamis.scoring.evol import pairs

ASPECTS = {
    "clarity": "is it easy to understand, in plain words and good order?",
    "completeness": "does it hold all the information and detail that is needed?",
    "factuality": "is it right, and does it rest on facts that can be relied on?",
}
PARTS = ("prompt", "response")
TASK = (
    "Judge the {aspect} of the {part} below: {question} Give a number from 0 to 10, higher is "
    "better, and 10 only to what cannot be improved. Write the number first, then why.\n\n{text}"
)
# What a prompt in plain style ends with.
CUE = "Number:"
_TOKENS = 32
NO_TURN = "no_instruction"
UNREADABLE = "no_number_in_reply"
_NUMBER = re.compile(r"\d+\.\d+|\d+")


@dataclass(frozen=True)
class MiddoQuality:
    """Clarity, completeness and factuality of the prompt and of the response, 0 to 10 each.

    `value` is their mean, of the first turn of a row. The mark is the first number of the reply,
    at most 10. Texts longer than `max_chars` lose their middle; `cut` is the largest share of one.
    Six replies a row, at temperature 0. Meant for the model that is being tuned, here or behind a
    server.

    Source: "Middo", 2025 (arXiv 2508.21589). Differs from the authors' code: a reply without a
    number has no mark (0 there), and nothing is drawn at random.
    """

    model: Model
    device: str
    max_chars: int = 8_000

    name: ClassVar[str] = "middo_quality"
    version: ClassVar[int] = 2
    about: ClassVar[Mapping[str, str]] = {
        "sentence": "Clarity, completeness and factuality of prompt and response, by a model.",
        "needs": "a causal language model, or one with an endpoint (OpenAI-compatible: vLLM)",
        "view": "user and answer of the first turn",
        "cost": "six replies a row of up to 32 tokens",
        "avoid": "with a small model: its marks say little",
    }
    fields = ("value", *(f"{a}_{p}" for a in ASPECTS for p in PARTS), "cut", "reason")

    def identity(self) -> Mapping[str, Any]:
        """The model, the questions and the cut."""
        given = {"task": TASK, "aspects": ASPECTS, "max_chars": self.max_chars}
        return {"model": asking.identity(self.model), **given, "cue": CUE}

    def check(self) -> None:
        """Raise if the model or the key of its endpoint is missing, or the cut is out of range."""
        asking.check(self.model, self.name, _TOKENS)
        if self.max_chars < 100:
            raise RecipeError(f"middo_quality.max_chars must be 100 or more, got {self.max_chars}")

    @property
    def warnings(self) -> list[str]:
        """None."""
        return []

    def score(self, batch: pa.RecordBatch, *, advance: Advance) -> Columns:
        """The six marks and their mean, float64, NaN with a `reason` when one is missing."""
        n = len(batch)
        marks = {f"{a}_{p}": np.full(n, np.nan) for a in ASPECTS for p in PARTS}
        cut, reason = np.full(n, np.nan), np.full(n, None, dtype=object)
        prompts, places = [], []
        for i, messages in enumerate(samples.decode_messages(batch.column("messages"))):
            turns = pairs(messages)
            if not turns:
                reason[i] = NO_TURN
                continue
            asked = self._questions(*turns[0])
            cut[i] = max(share for _, _, share in asked)
            prompts += [prompt for _, prompt, _ in asked]
            places += [(i, name) for name, _, _ in asked]
        replies = self._asker.ask(prompts, max_tokens=_TOKENS, cue=CUE)
        for (i, name), reply in zip(places, replies, strict=True):
            if not isinstance(reply, Reply):
                reason[i] = reply.reason
                continue
            marks[name][i] = rating(reply.text)
            if np.isnan(marks[name][i]) and reason[i] is None:
                reason[i] = UNREADABLE
        advance(n)
        value = np.mean(list(marks.values()), axis=0)
        return {"value": value, **marks, "cut": cut, "reason": reason}

    def _questions(self, instruction: str, response: str) -> list[tuple[str, Prompt, float]]:
        """The name of each mark, what is asked for it, and the share of the texts left out."""
        asked, cut = shortened(instruction, self.max_chars)
        said, cut_too = shortened(response, self.max_chars)
        texts = {
            "prompt": (f"Prompt:\n{asked}", cut),
            "response": (f"Prompt:\n{asked}\n\nResponse:\n{said}", max(cut, cut_too)),
        }
        found = []
        for aspect, question in ASPECTS.items():
            for part, (text, gone) in texts.items():
                prompt, more = fitted(
                    self._asker,
                    partial(_task, aspect, part, question),
                    text,
                    max_chars=len(text),
                    max_tokens=_TOKENS,
                    cue=CUE,
                )
                found.append((f"{aspect}_{part}", prompt, 1 - (1 - gone) * (1 - more)))
        return found

    @cached_property
    def _asker(self) -> Asker:
        return asking.opened(self.model, self.device)


def _task(aspect: str, part: str, question: str, text: str) -> str:
    return TASK.format(aspect=aspect, part=part, question=question, text=text)


def rating(text: str) -> float:
    """The first number of a text, at most 10; NaN where there is none. A sign is not read."""
    found = _NUMBER.search(text)
    return min(float(found.group()), 10.0) if found else float("nan")
