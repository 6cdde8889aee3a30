"""A grade that a served model gives each row by a rubric of the user's."""

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
from tamis.language import endpoint
from tamis.language.endpoint import Client
from tamis.language.replies import Reply
from tamis.recipe import Model
from tamis.scoring.asked import conversation, shortened
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
# Likely tokens asked for: what servers offer, and room for digits with a space before them.
TOP = 20


@dataclass(frozen=True)
class Judge:
    """Ask for a whole number from 1 to `highest` by the `rubric`; the grade is a float.

    Where the server tells the likely tokens and every number is among them, `value` is the
    expected number (`how` = `logprobs`); else the number in the text (`parsed`), and none where it
    names none or several. Conversations longer than `max_chars` lose their middle and are flagged.
    One request a row, at temperature 0.

    It is a model's opinion with the biases of such (length, position, its own style), and no EVOL
    score: that needs a model trained for it.
    """

    model: Model
    device: str
    rubric: str = RUBRIC
    highest: int = 6
    max_chars: int = 12_000

    name: ClassVar[str] = "judge"
    version: ClassVar[int] = 1
    about: ClassVar[Mapping[str, str]] = {
        "sentence": "A grade by your rubric, from a language model behind a server.",
        "needs": "a model with an endpoint (OpenAI-compatible: vLLM and the like)",
        "cost": "one request a row; minutes to hours per 100k rows, and money where it is charged",
        "avoid": "as the only signal: judges like long answers and their own style",
    }
    fields = ("value", "how", "truncated", "reason")

    def identity(self) -> Mapping[str, Any]:
        """The server's model, the rubric and the cut."""
        given = {"rubric": self.rubric, "highest": self.highest, "max_chars": self.max_chars}
        return {**endpoint.identity(self.model), **given, "task": TASK}

    def check(self) -> None:
        """Raise if there is no endpoint, its key is not set, or an option is out of range."""
        endpoint.check(self.model, self.name)
        if not 2 <= self.highest <= 9 or self.max_chars < 100 or not self.rubric.strip():
            raise RecipeError("judge needs a rubric, highest from 2 to 9 and max_chars >= 100")

    @property
    def warnings(self) -> list[str]:
        """None."""
        return []

    def score(self, batch: pa.RecordBatch, *, advance: Advance) -> Columns:
        """`value` float64 from 1 to `highest`, NaN with a `reason`; `how` it was read."""
        n = len(batch)
        value, truncated = np.full(n, np.nan), np.zeros(n, dtype=bool)
        how, reason = np.full(n, None, dtype=object), np.full(n, None, dtype=object)
        prompts, rows = [], []
        for i, messages in enumerate(samples.decode_messages(batch.column("messages"))):
            if not samples.answers(messages):
                reason[i] = NO_ANSWER
                continue
            text, truncated[i] = shortened(conversation(messages), self.max_chars)
            task = TASK.format(rubric=self.rubric, highest=self.highest)
            turns = ({"role": "system", "content": task}, {"role": "user", "content": text})
            prompts.append(turns)
            rows.append(i)
        advance(n - len(rows))
        replies = self._client.ask(prompts, max_tokens=8, logprobs=TOP, done=advance)
        for i, reply in zip(rows, replies, strict=True):
            if isinstance(reply, Reply):
                value[i], how[i] = grade(reply, self.highest)
                reason[i] = None if how[i] else UNREADABLE
            else:
                reason[i] = reply.reason
        return {"value": value, "how": how, "truncated": truncated, "reason": reason}

    @cached_property
    def _client(self) -> Client:
        return Client(self.model)


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
