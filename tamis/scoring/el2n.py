"""How far a model's next-token distribution lies from the answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from tamis.language.network import Part
from tamis.scoring.answer_signal import FACTS, AnswerSignal
from tamis.scoring.answers import AnswerParts
from tamis.scoring.base import Columns


@dataclass(frozen=True)
class El2n(AnswerSignal):
    """Mean and maximum over answer tokens of |softmax(z) - onehot(token)|_2; 0 to sqrt 2.

    Paul et al., "Deep Learning on a Data Diet", 2021 (arXiv 2107.07075), who score images early in
    training and average over ten runs: score with several early checkpoints and average the columns
    for that. Bounded, so a single absurd token cannot decide, as it can with NLL. Cost: one forward
    pass a row, shared with `nll`.
    """

    name: ClassVar[str] = "el2n"
    version: ClassVar[int] = 1
    about: ClassVar[Mapping[str, str]] = {
        "sentence": "How far a language model's guesses lie from the answers, token by token.",
        "needs": "a causal language model, best one tuned briefly on such rows",
        "view": "answer, given all before it",
        "cost": "that of nll; free beside it",
        "avoid": "to keep the highest of noisy data: hard and wrong rows look alike",
    }
    parts: ClassVar[frozenset[Part]] = frozenset({"el2n"})
    fields = ("mean", "max", *FACTS)

    def reduce(self, answers: AnswerParts) -> Columns:
        """`mean` and `max` are NaN where no token could be scored; `reason` says why."""
        return {"mean": answers.mean("el2n"), "max": answers.largest("el2n"), **answers.facts}
