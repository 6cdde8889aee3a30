"""How unsure a model is of what comes next while it reads the answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from tamis.language.network import Part
from tamis.scoring.answer_signal import FACTS, AnswerSignal
from tamis.scoring.answers import AnswerParts
from tamis.scoring.base import Columns


@dataclass(frozen=True)
class Entropy(AnswerSignal):
    """Mean and maximum over answer tokens of H = -sum_v p(v) ln p(v), in nats; 0 to ln V.

    What the answer says does not matter but through what follows. One of the scores that
    Adapt-infinity chooses among (Maharana et al., 2024, arXiv 2410.10636), whose code averages over
    all positions, prompt and padding included. Cost: one forward pass a row, shared with `nll`.
    """

    name: ClassVar[str] = "entropy"
    version: ClassVar[int] = 1
    about: ClassVar[Mapping[str, str]] = {
        "sentence": "How unsure a language model is while it reads the answers.",
        "needs": "a causal language model",
        "view": "answer, given all before it",
        "cost": "that of nll; free beside it",
        "avoid": "as a measure of mistakes: it does not see which token the answer takes",
    }
    parts: ClassVar[frozenset[Part]] = frozenset({"entropy"})
    fields = ("mean", "max", *FACTS)

    def reduce(self, answers: AnswerParts) -> Columns:
        """`mean` and `max` are NaN where no token could be scored; `reason` says why."""
        return {
            "mean": answers.mean("entropy"),
            "max": answers.largest("entropy"),
            **answers.facts,
        }
