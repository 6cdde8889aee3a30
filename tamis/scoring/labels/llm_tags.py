"""Tags that a model names for each row."""

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
from tamis.language import asking, endpoint
from tamis.language.asking import Asker
from tamis.language.endpoint import Prompt
from tamis.language.replies import Reply
from tamis.recipe import Model
from tamis.scoring.asked import fitted
from tamis.scoring.base import Advance, Columns
from tamis.scoring.embed import NO_TEXT
from tamis.scoring.views import text

TASK = (
    "Name what the user's request is about and what it asks for: task, field and skills, in "
    "{least} to {most} short noun phrases in English. Answer with a JSON array of strings and "
    "nothing else."
)
CHOOSE = (
    "Say which of these the user's request asks for, the most important first, at most {most}:\n"
    "{choices}\nAnswer with a JSON array of these strings, spelt the same, and nothing else."
)
AGAIN = (
    "That was not usable: {problem}. Answer with a JSON array of {least} to {most} {what} and "
    "nothing else."
)
# What a prompt in plain style ends with.
CUE = "Tags as a JSON array:"
LEAST, MOST = 1, 6
LONGEST_CHARS, LONGEST_WORDS = 60, 6
NO_TAGS = "no_valid_tags"
_TOKENS = 160
# What telling a model that its first reply was not usable takes, that reply included.
_SECOND = 256
_KEPT = 2000


@dataclass(frozen=True)
class LlmTags:
    """1 to 6 short noun phrases for the instructions of a row, from a chat model; with `choices`, 1
    to 6 of these and no other.

    The reply must be a JSON array of such texts; where it is not, the model is told what was wrong
    and asked once more, then the row has no tags and a reason. Instructions longer than
    `max_chars`, or than the model reads, lose their middle; `cut` is the share of it. The score
    `tags` cleans, counts and merges the tags (`column: llm_tags.tags`) into labels for MIG;
    `abilities` makes categories of chosen ones. One or two replies a row, at temperature 0.

    Source: the second kind of labels in the comparison with InsTag (arXiv 2308.07074); not an
    InsTag tagger.
    """

    model: Model
    device: str
    choices: tuple[str, ...] = ()
    max_chars: int = 8_000

    name: ClassVar[str] = "llm_tags"
    version: ClassVar[int] = 2
    about: ClassVar[Mapping[str, str]] = {
        "sentence": "Tags for each instruction, from a language model here or behind a server.",
        "needs": "a causal language model, or one with an endpoint (OpenAI-compatible: vLLM)",
        "view": "user",
        "cost": "one reply a row of up to 160 tokens, two where the first is not usable",
        "avoid": "where rows have labels already: metadata costs nothing",
    }
    fields = ("tags", "cut", "reason")

    def identity(self) -> Mapping[str, Any]:
        """The model, the task and the cut."""
        given = {"task": self._task, "again": AGAIN, "cue": CUE, "max_chars": self.max_chars}
        return {"model": asking.identity(self.model), **given}

    def check(self) -> None:
        """Raise if the model or the key of its endpoint is missing, or the cut is out of range."""
        asking.check(self.model, self.name, _TOKENS)
        if self.max_chars < 100:
            raise RecipeError(f"llm_tags.max_chars must be 100 or more, got {self.max_chars}")
        if len(set(map(_folded, self.choices))) != len(self.choices) or not all(self.choices):
            raise RecipeError("llm_tags.choices must be different texts")

    @property
    def warnings(self) -> list[str]:
        """None."""
        return []

    def score(self, batch: pa.RecordBatch, *, advance: Advance) -> Columns:
        """`tags`, a list of texts a row, empty with a `reason`; `cut`, the share left out."""
        n = len(batch)
        tags: list[list[str]] = [[] for _ in range(n)]
        cut, reason = np.full(n, np.nan), np.full(n, None, dtype=object)
        turns: dict[int, Prompt] = {}
        for i, messages in enumerate(samples.decode_messages(batch.column("messages"))):
            asked = text(messages, "user")
            if not asked:
                reason[i] = NO_TEXT
                continue
            turns[i], cut[i] = fitted(
                self._asker,
                self._asked,
                asked,
                max_chars=self.max_chars,
                max_tokens=_TOKENS + _SECOND,
                cue=CUE,
            )
        for attempt in range(2):
            replies = self._asker.ask(list(turns.values()), max_tokens=_TOKENS, cue=CUE)
            left: dict[int, Prompt] = {}
            for (i, said), reply in zip(turns.items(), replies, strict=True):
                if not isinstance(reply, Reply):
                    reason[i] = reply.reason
                    continue
                tags[i], problem = parsed(reply.text, self.choices)
                if problem and attempt == 0:
                    left[i] = [*endpoint.turns(said), *self._told(reply.text, problem)]
                elif problem:
                    reason[i] = NO_TAGS
            turns = left
        advance(n)
        column = np.empty(n, dtype=object)
        column[:] = tags
        return {"tags": column, "cut": cut, "reason": reason}

    @property
    def _task(self) -> str:
        if not self.choices:
            return TASK.format(least=LEAST, most=MOST)
        return CHOOSE.format(most=MOST, choices="\n".join(f"- {name}" for name in self.choices))

    def _asked(self, asked: str) -> Prompt:
        return ({"role": "system", "content": self._task}, {"role": "user", "content": asked})

    def _told(self, reply: str, problem: str) -> Sequence[dict[str, str]]:
        what = "of the strings you were given" if self.choices else "short strings"
        again = AGAIN.format(problem=problem, least=LEAST, most=MOST, what=what)
        return (
            {"role": "assistant", "content": reply[:_KEPT] or "(nothing)"},
            {"role": "user", "content": again},
        )

    @cached_property
    def _asker(self) -> Asker:
        return asking.opened(self.model, self.device)


def parsed(reply: str, choices: Sequence[str] = ()) -> tuple[list[str], str | None]:
    """The tags of a reply, or none and what is wrong with it. Text around the array is passed
    over; blanks are trimmed, and a tag named twice counts once. With `choices` each must be one of
    these, whatever its case."""
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
    if choices:
        known = {_folded(choice): choice for choice in choices}
        strange = [tag for tag in tags if _folded(tag) not in known]
        if strange:
            return [], f"{strange[0][:LONGEST_CHARS]!r} is none of the strings"
        return list(dict.fromkeys(known[_folded(tag)] for tag in tags)), None
    if any(not t or len(t) > LONGEST_CHARS or len(t.split()) > LONGEST_WORDS for t in tags):
        return [], "a string is empty or too long"
    return tags, None


def _folded(name: str) -> str:
    return " ".join(name.casefold().split())
