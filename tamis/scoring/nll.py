"""How improbable a model finds the answers of a row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tamis.language import load
from tamis.recipe import Model
from tamis.scoring.answers import AnswerLogProbs
from tamis.scoring.base import Columns, Rendering


@dataclass(frozen=True)
class Nll:
    """Mean and sum of -log p(token | all before it) over the answer tokens of a row, in nats.

    The answer tokens are those of `tamis.scoring.answers`. deita (Liu et al., 2023, arXiv
    2312.15685) compares with it as a measure of complexity. Cost: one forward pass a row.
    """

    model: Model
    device: str

    name: ClassVar[str] = "nll"
    version: ClassVar[int] = 1
    about: ClassVar[Mapping[str, str]] = {
        "sentence": "How surprised a language model is by the answers.",
        "needs": "a causal language model",
        "cost": "one forward pass a row: about 2.5 hours per 100k rows of 250 tokens with a 17M "
        "model on two CPU cores, minutes on a GPU",
        "avoid": "with a model that does not know the kind of text: the values are noise",
    }
    renderings: ClassVar[frozenset[Rendering]] = frozenset({"conditional"})
    fields = ("mean", "sum", "tokens", "reason")

    def identity(self) -> Mapping[str, Any]:
        """The model."""
        return {"model": load.identity(self.model)}

    def check(self) -> None:
        """Raise if the model is not there."""
        load.check(self.model)

    def reduce(self, answers: AnswerLogProbs) -> Columns:
        """`mean` and `sum` are NaN where no token could be scored; `reason` says why."""
        total, tokens = answers.nll(), answers.tokens
        return {
            "mean": total / np.maximum(tokens, 1),
            "sum": total,
            "tokens": tokens,
            "reason": answers.reason,
        }
