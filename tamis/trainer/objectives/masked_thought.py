"""Masked Thought: parts of the answer the model reads are replaced, what it must say is not."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from tamis.errors import RecipeError
from tamis.selectors.base import About
from tamis.trainer.data import Examples
from tamis.trainer.objectives.base import Course, Objective


@dataclass(frozen=True)
class MaskedThought(Objective):
    """nll of clean labels, given inputs of which each answer token was replaced with probability r.

    r grows linearly from 0 to `rate` over the first `warmup` of the optimizer steps. A replaced
    token is drawn evenly from the tokens that stand for text, or is `token` where one is named. The
    first token of a row and prompts are never touched; evaluation sees clean inputs. What is drawn
    hangs on the seed, the row and the step alone.

    Source: Chen et al., "Masked Thought", 2024 (arXiv 2403.02178); the defaults are their recipe
    for GSM8K. Their code counts the warm-up in calls of the collator, so it hangs on the number of
    its workers, may draw special tokens, and may add a mask token to the vocabulary.
    """

    rate: float = 0.4
    warmup: float = 0.66
    token: str | None = None

    name = "masked_thought"
    about = About(
        sentence="-log p of each answer token where some of the tokens before it are replaced.",
        needs="nothing",
        cost="none beyond the forward pass",
        avoid="answers without steps of reasoning; data that must be learnt word for word",
    )

    def __post_init__(self) -> None:
        for name in ("rate", "warmup"):
            if not 0 <= getattr(self, name) <= 1:
                raise RecipeError(f"masked_thought: {name}={getattr(self, name)}: expected 0 to 1")

    def check(self, examples: Examples, course: Course) -> None:
        """See `Objective`."""
        if self.token is not None and self.token not in course.vocabulary:
            raise RecipeError(f"masked_thought: token={self.token!r} is not in the vocabulary")

    def rows(self, examples: Examples, step: int, course: Course) -> Examples:
        """See `Objective`."""
        rate, shown = self.rate_at(step, course.steps), examples.ids.copy()
        for i, row_id in enumerate(examples.row_id):
            start, end = examples.indptr[i], examples.indptr[i + 1]
            rng = np.random.default_rng(course.key(self.name, step, row_id))
            chosen = examples.labelled[start:end] & (rng.random(end - start) < rate)
            chosen[0] = False
            shown[start:end][chosen] = self._replacement(rng, int(chosen.sum()), course)
        return dataclasses.replace(examples, shown=shown)

    def rate_at(self, step: int, steps: int) -> float:
        """The probability of a replacement at a step, counted from 0."""
        whole = self.warmup * steps
        return self.rate * (min(1.0, step / whole) if whole > 0 else 1.0)

    def _replacement(self, rng: np.random.Generator, n: int, course: Course) -> np.ndarray | int:
        if self.token is not None:
            return course.vocabulary[self.token]
        return rng.choice(course.ordinary, n)
