"""A grade that a model gives each row by a rubric of the user's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
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
from tamis.scoring.asked import conversation, fitted
from tamis.scoring.base import Advance, Columns

RUBRIC = (
    "How good is the last answer: does it do what was asked, is it right, complete and clear, with "
    "nothing that does not belong there?"
)
TASK = (
    "You grade conversations between a user and an assistant. Judge by this question alone:\n"
    "{rubric}\nAnswer with one whole number from 1 (worst) to {highest} (best) and nothing else."
)
NO_ANSWER = "no_answer"
UNREADABLE = "no_grade_in_reply"
# What a prompt in plain style ends with.
CUE = "Grade:"
_TOKENS = 8


@dataclass(frozen=True)
class Judge:
    """Ask for a whole number from 1 to `highest` by the `rubric`; the grade is a float.

    Where the probabilities of all these numbers are known, `value` is the expected number (`how` =
    `logprobs`): always of a model whose weights are here and that is about to say a number, and of
    a served one that tells them among its likely tokens. Else it is the number in the text
    (`parsed`), and none where it names none or several. Conversations longer than `max_chars`, or
    than the model reads, lose their middle; `cut` is the share of it. Cost: one forward pass a row,
    eight tokens of decoding where no number is likely, or one request at temperature 0.

    It is a model's opinion with the biases of such (length, position, its own style), and no EVOL
    score: that needs a model trained for it.
    """

    model: Model
    device: str
    rubric: str = RUBRIC
    highest: int = 6
    max_chars: int = 12_000

    name: ClassVar[str] = "judge"
    version: ClassVar[int] = 2
    about: ClassVar[Mapping[str, str]] = {
        "sentence": "A grade by your rubric, from a language model here or behind a server.",
        "needs": "a causal language model, or one with an endpoint (OpenAI-compatible: vLLM)",
        "view": "all, and system prompts",
        "cost": "one forward pass or request a row; minutes to hours per 100k rows",
        "avoid": "as the only signal: judges like long answers and their own style",
    }
    fields = ("value", "how", "cut", "reason")

    def identity(self) -> Mapping[str, Any]:
        """The model, the rubric and the cut."""
        given = {"rubric": self.rubric, "highest": self.highest, "max_chars": self.max_chars}
        return {"model": asking.identity(self.model), **given, "task": TASK, "cue": CUE}

    def check(self) -> None:
        """Raise if the model or the key of its endpoint is missing, or an option is out of
        range."""
        asking.check(self.model, self.name, _TOKENS)
        if not 2 <= self.highest <= 9 or self.max_chars < 100 or not self.rubric.strip():
            raise RecipeError("judge needs a rubric, highest from 2 to 9 and max_chars >= 100")

    @property
    def warnings(self) -> list[str]:
        """That the model names no grade."""
        asked, graded = self._tally
        if graded >= asked / 2:
            return []
        return [
            f"judge: {asked - graded} of {asked} replies of {self.model.location} name no grade, "
            "so the value is null; check prompt_style and the rubric, or take another model"
        ]

    def score(self, batch: pa.RecordBatch, *, advance: Advance) -> Columns:
        """`value` float64 from 1 to `highest`, NaN with a `reason`; `how` it was read."""
        n = len(batch)
        value, cut = np.full(n, np.nan), np.full(n, np.nan)
        how, reason = np.full(n, None, dtype=object), np.full(n, None, dtype=object)
        prompts, rows = [], []
        for i, messages in enumerate(samples.decode_messages(batch.column("messages"))):
            if not samples.answers(messages):
                reason[i] = NO_ANSWER
                continue
            prompt, cut[i] = fitted(
                self._asker,
                self._asked,
                conversation(messages),
                max_chars=self.max_chars,
                max_tokens=_TOKENS,
                cue=CUE,
            )
            prompts.append(prompt)
            rows.append(i)
        advance(n - len(rows))
        numbers = [str(k) for k in range(1, self.highest + 1)]
        replies = self._asker.ask(prompts, max_tokens=_TOKENS, among=numbers, cue=CUE, done=advance)
        for i, reply in zip(rows, replies, strict=True):
            if isinstance(reply, Reply):
                value[i], how[i] = grade(reply, self.highest)
                reason[i] = None if how[i] else UNREADABLE
            else:
                reason[i] = reply.reason
        self._tally[:] += len(rows), sum(h is not None for h in how)
        return {"value": value, "how": how, "cut": cut, "reason": reason}

    def _asked(self, text: str) -> Prompt:
        task = TASK.format(rubric=self.rubric, highest=self.highest)
        return ({"role": "system", "content": task}, {"role": "user", "content": text})

    @cached_property
    def _asker(self) -> Asker:
        return asking.opened(self.model, self.device)

    @cached_property
    def _tally(self) -> np.ndarray:
        """Rows that were asked about, and those that got a grade."""
        return np.zeros(2, dtype=np.int64)


def grade(reply: Reply, highest: int) -> tuple[float, str | None]:
    """The number of a reply, and how it was read: `logprobs`, `parsed`, or None with NaN."""
    numbers = [str(k) for k in range(1, highest + 1)]
    for token, likely in reply.tokens:
        if token.strip() not in numbers:
            continue
        share = np.zeros(highest)
        for other, logprob in likely.items():
            if other.strip() in numbers:
                share[int(other.strip()) - 1] += np.exp(logprob)
        if (share > 0).all():
            return float(share @ np.arange(1, highest + 1) / share.sum()), "logprobs"
        break
    text = re.sub(rf"(?:/|\bout of\b)\s*{highest}\b", " ", reply.text)
    named = {k for k in re.findall(r"(?<![\d.,-])\d+(?![\d]|[.,]\d)", text) if k in numbers}
    return (float(named.pop()), "parsed") if len(named) == 1 else (float("nan"), None)
