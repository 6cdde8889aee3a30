"""What every objective of the trainer takes and gives back."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from tamis.language.generate import stop_ids
from tamis.language.render import special_ids
from tamis.selectors.base import About
from tamis.trainer.data import Examples


@dataclass(frozen=True)
class Course:
    """What an objective may know of the run: its seed, its number of steps, its tokens.

    `vocabulary` maps tokens to ids; `special` are the ids that stand for no text (end of turn,
    padding, roles).
    """

    seed: int
    steps: int
    vocabulary: Mapping[str, int] = field(default_factory=dict)
    special: frozenset[int] = frozenset()

    @cached_property
    def ordinary(self) -> np.ndarray:
        """The ids of tokens that stand for text, ascending, int32."""
        return np.array(sorted({*self.vocabulary.values()} - self.special), dtype=np.int32)

    def key(self, purpose: str, step: int, row_id: str) -> int:
        """A seed of 63 bits for one row of one step. It hangs on no draw before, so a run that goes
        on draws what it would have drawn."""
        words = f"{self.seed}\0{purpose}\0{step}\0{row_id}".encode()
        return int.from_bytes(hashlib.sha256(words).digest()[:8], "big") >> 1


def course(tokenizer: Any, prompt_style: str, seed: int, steps: int) -> Course:
    """The course of a run with this tokenizer."""
    special = {*special_ids(tokenizer), *stop_ids(tokenizer, prompt_style=prompt_style)}
    return Course(seed, steps, tokenizer.get_vocab(), frozenset(special))


class Objective:
    """An objective: a frozen dataclass whose fields are its options, and no state."""

    name: ClassVar[str]
    about: ClassVar[About]
    # Whether the model as it was before training is asked too: `terms` then have `kl`.
    frozen: ClassVar[bool] = False
    # Whether another model is asked too, `Given.teacher`: `terms` then have `kl` and `entropy`.
    taught: ClassVar[bool] = False
    # Whether passes with noise are made too: `terms` then have `soft` and `consistency`.
    noisy: ClassVar[bool] = False

    def group_by(self) -> str | None:
        """The column of the rows that names their group, where the objective has groups."""
        return None

    def check(self, examples: Examples, course: Course) -> None:
        """Raise `DataError` or `RecipeError` when these rows cannot be trained on so."""

    def rows(self, examples: Examples, step: int, course: Course) -> Examples:
        """The rows of one whole optimizer step as they are trained on: shown and weighted.

        Called before a step is cut into batches and between ranks, so that what hangs on all rows
        of the step is exact however it is cut. `step` counts from 0.
        """
        return examples

    def cost(self, terms: Mapping[str, Any]) -> Any:
        """What each trained token costs (m,), from `nll` and what else was asked for, (m,) in
        float32."""
        return terms["nll"]
