"""Prompts whose next token is a digit: the template filled in, cut to the model's length."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from tamis.errors import RecipeError, TamisError
from tamis.numerics.allocate import allocate
from tamis.scoring.digits import DIGITS

_FIELD = re.compile(r"\{(instruction|response)\}")
_ATTEMPTS = 4


def fields(template: str) -> list[str]:
    """What a template asks for, in order: `instruction`, `response`."""
    return _FIELD.findall(template)


def filled(template: str, texts: dict[str, str]) -> str:
    """The template with its fields replaced; braces in the texts mean nothing."""
    return _FIELD.sub(lambda found: texts[found.group(1)], template)


def check(template: str, name: str) -> None:
    """Raise `RecipeError` for a template that does not show the instruction."""
    if "instruction" not in fields(template):
        raise RecipeError(f"{name}: a template must contain {{instruction}}, got {template!r}")


@dataclass(frozen=True)
class DigitPrompt:
    """A `template` in front of one digit, for a `tokenizer`, in at most `limit` tokens."""

    tokenizer: Any
    template: str
    limit: int

    @cached_property
    def digits(self) -> list[int]:
        """The ids of "1" to "6" behind the template.

        Tokenizers may join the space that ends a template to the digit, so the ids are what six
        encodings have in place of each other. Raises `TamisError` when that is not one token each.
        """
        texts = {"instruction": "a", "response": "b"}
        head = filled(self.template, texts)
        coded = [self.tokenizer.encode(f"{head}{k}") for k in range(1, DIGITS + 1)]
        last = [ids[-1] for ids in coded]
        if len({tuple(ids[:-1]) for ids in coded}) > 1 or len(set(last)) < DIGITS:
            raise TamisError(
                "the tokenizer does not write each digit behind the template as one token of its "
                "own: end the template otherwise, or take another model"
            )
        return last

    def ids(self, instruction: str, response: str) -> tuple[list[int] | None, float]:
        """The ids up to the place of the digit, and the share of the texts' tokens cut to fit.

        Texts lose their middle, keeping beginning and end; the template stays whole. None when
        they do not fit even so.
        """
        texts = {"instruction": instruction, "response": response}
        found = self._coded(texts)
        if len(found) <= self.limit:
            return found, 0.0
        names = sorted(set(fields(self.template)))
        parts = [self.tokenizer.encode(texts[n], add_special_tokens=False) for n in names]
        room = self.limit - len(self._coded(dict.fromkeys(texts, "")))
        for _ in range(_ATTEMPTS):
            if room < 2 * len(names):
                break
            share = allocate([len(p) for p in parts], room, np.ones(len(parts)))
            cut = {
                n: self._ends(p, k) for n, p, k in zip(names, parts, share.tolist(), strict=True)
            }
            found = self._coded(texts | cut)
            if len(found) <= self.limit:
                return found, float(1 - share.sum() / sum(map(len, parts)))
            # Joined texts may take more tokens than they had apart.
            room -= len(found) - self.limit
        return None, 1.0

    def _coded(self, texts: dict[str, str]) -> list[int]:
        coded: list[int] = self.tokenizer.encode(filled(self.template, texts) + "1", verbose=False)
        return coded[:-1]

    def _ends(self, ids: list[int], kept: int) -> str:
        if kept >= len(ids):
            return str(self.tokenizer.decode(ids))
        tail = kept // 2
        halves = (ids[: kept - tail], ids[len(ids) - tail :])
        return "".join(str(self.tokenizer.decode(half)) for half in halves)
