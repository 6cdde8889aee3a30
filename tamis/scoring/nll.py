"""How improbable a model finds the answers of a row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tamis.scoring.answer_signal import FACTS, AnswerSignal
from tamis.scoring.answers import AnswerParts
from tamis.scoring.base import Columns


@dataclass(frozen=True)
class Nll(AnswerSignal):
    """Mean and sum of -log p(token | all before it) over the answer tokens of a row, in nats.

    The answer tokens are those of `tamis.scoring.answers`. deita (Liu et al., 2023, arXiv
    2312.15685) compares with it as a measure of complexity. Cost: one forward pass a row.
    """

    name: ClassVar[str] = "nll"
    version: ClassVar[int] = 2
    about: ClassVar[Mapping[str, str]] = {
        "sentence": "How surprised a language model is by the answers.",
        "needs": "a causal language model",
        "view": "answer, given all before it",
        "cost": "one forward pass a row: about 2.5 hours per 100k rows of 250 tokens with a 17M "
        "model on two CPU cores, minutes on a GPU",
        "avoid": "with a model that does not know the kind of text: the values are noise",
    }
    fields = ("mean", "sum", *FACTS)

    def reduce(self, answers: AnswerParts) -> Columns:
        """`mean` and `sum` are NaN where no token could be scored; `reason` says why."""
        total = answers.nll()
        return {"mean": total / np.maximum(answers.tokens, 1), "sum": total, **answers.facts}
