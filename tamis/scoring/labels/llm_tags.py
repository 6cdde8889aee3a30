"""Tags that a served model names for each row."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
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
from tamis.scoring.asked import shortened
from tamis.scoring.base import Advance, Columns
from tamis.scoring.embed import NO_TEXT
from tamis.scoring.views import text

TASK = (
    "Name what the user's request is about and what it asks for: task, field and skills, in "
    "{least} to {most} short noun phrases in English. Answer with a JSON array of strings and "
    "nothing else."
)
AGAIN = (
    "That was not usable: {problem}. Answer with a JSON array of {least} to {most} short strings "
    "and nothing else."
)
LEAST, MOST = 1, 6
LONGEST_CHARS, LONGEST_WORDS = 60, 6
NO_TAGS = "no_valid_tags"
_TOKENS = 160


@dataclass(frozen=True)
class LlmTags:
    """1 to 6 short noun phrases for the instructions of a row, from a chat model.

    The reply must be a JSON array of such texts; where it is not, the model is told what was wrong
    and asked once more, then the row has no tags and a reason. Instructions longer than `max_chars`
    lose their middle and are flagged. The score `tags` cleans, counts and merges the tags
    (`column: llm_tags.tags`) into labels for MIG. One or two requests a row, at temperature 0.

    Source: the second kind of labels in the comparison with InsTag (arXiv 2308.07074); not an
    InsTag tagger.
    """

    model: Model
    device: str
    max_chars: int = 8_000

    name: ClassVar[str] = "llm_tags"
    version: ClassVar[int] = 1
    about: ClassVar[Mapping[str, str]] = {
        "sentence": "Tags for each instruction, from a language model behind a server.",
        "needs": "a model with an endpoint (OpenAI-compatible: vLLM and the like)",
        "cost": "one request a row, two where the first reply is not usable",
        "avoid": "where rows have labels already: metadata costs nothing",
    }
    fields = ("tags", "truncated", "reason")

    def identity(self) -> Mapping[str, Any]:
        """The server's model, the task and the cut."""
        given = {"task": TASK, "again": AGAIN, "max_chars": self.max_chars}
        return {**endpoint.identity(self.model), **given}

    def check(self) -> None:
        """Raise if there is no endpoint, its key is not set, or the cut is out of range."""
        endpoint.check(self.model, self.name)
        if self.max_chars < 100:
            raise RecipeError(f"llm_tags.max_chars must be 100 or more, got {self.max_chars}")

    @property
    def warnings(self) -> list[str]:
        """None."""
        return []

    def score(self, batch: pa.RecordBatch, *, advance: Advance) -> Columns:
        """`tags`, a list of texts a row, empty with a `reason`; `truncated`."""
        n = len(batch)
        tags: list[list[str]] = [[] for _ in range(n)]
        truncated, reason = np.zeros(n, dtype=bool), np.full(n, None, dtype=object)
        turns: dict[int, list[dict[str, str]]] = {}
        for i, messages in enumerate(samples.decode_messages(batch.column("messages"))):
            asked, truncated[i] = shortened(text(messages, "user"), self.max_chars)
            if not asked:
                reason[i] = NO_TEXT
                continue
            task = TASK.format(least=LEAST, most=MOST)
            turns[i] = [{"role": "system", "content": task}, {"role": "user", "content": asked}]
        for attempt in range(2):
            replies = self._client.ask(list(turns.values()), max_tokens=_TOKENS)
            left = {}
            for (i, said), reply in zip(turns.items(), replies, strict=True):
                if not isinstance(reply, Reply):
                    reason[i] = reply.reason
                    continue
                tags[i], problem = parsed(reply.text)
                if problem and attempt == 0:
                    left[i] = [*said, *_told(reply.text, problem)]
                elif problem:
                    reason[i] = NO_TAGS
            turns = left
        advance(n)
        column = np.empty(n, dtype=object)
        column[:] = tags
        return {"tags": column, "truncated": truncated, "reason": reason}

    @cached_property
    def _client(self) -> Client:
        return Client(self.model)


def parsed(reply: str) -> tuple[list[str], str | None]:
    """The tags of a reply, or none and what is wrong with it. Text around the array is passed
    over; blanks are trimmed, and a tag named twice counts once."""
    start, end = reply.find("["), reply.rfind("]")
    if start < 0 or end < start:
        return [], "there is no JSON array"
    try:
        found = json.loads(reply[start : end + 1])
    except (ValueError, RecursionError):
        return [], "the array is no valid JSON"
    if not isinstance(found, list) or not all(isinstance(tag, str) for tag in found):
        return [], "the array must hold strings only"
    tags = list(dict.fromkeys(" ".join(tag.split()) for tag in found))
    if not LEAST <= len(tags) <= MOST:
        return [], f"there are {len(tags)} strings"
    if any(not t or len(t) > LONGEST_CHARS or len(t.split()) > LONGEST_WORDS for t in tags):
        return [], "a string is empty or too long"
    return tags, None


def _told(reply: str, problem: str) -> Sequence[dict[str, str]]:
    again = AGAIN.format(problem=problem, least=LEAST, most=MOST)
    return (
        {"role": "assistant", "content": reply[:2000] or "(nothing)"},
        {"role": "user", "content": again},
    )
