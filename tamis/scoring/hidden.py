"""The state a language model is in after reading a row: a vector without a sentence encoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from tamis.errors import RecipeError
from tamis.language.network import Part
from tamis.scoring.answer_signal import FACTS, AnswerSignal
from tamis.scoring.answers import AnswerParts
from tamis.scoring.base import Columns


@dataclass(frozen=True)
class Hidden(AnswerSignal):
    """One vector a row: the last hidden states after the final norm, over the whole conversation.

    `pool: mean` averages over all its tokens, as Middo does; `last` takes the state of
    the last one (deita, arXiv 2312.15685). Not scaled to length 1. Rows without a scored answer
    have none. Cost: one forward pass a row, shared with `nll`, which then reads to the last token.
    """

    pool: Literal["mean", "last"] = "mean"

    name: ClassVar[str] = "hidden"
    version: ClassVar[int] = 1
    about: ClassVar[Mapping[str, str]] = {
        "sentence": "Places every row as a point: where a language model stands after reading it.",
        "needs": "a causal language model",
        "view": "all up to the last answer's end",
        "cost": "that of nll; free beside it; 4 bytes a row and dimension on disk",
        "avoid": "where a sentence encoder reads the text whole: states of one model differ by "
        "length and form first",
    }
    fields = ("vector", *FACTS)

    def check(self) -> None:
        """Raise if the model is not there or the pooling is unknown."""
        super().check()
        if self.pool not in ("mean", "last"):
            raise RecipeError(f"hidden: pool={self.pool!r}: expected mean or last")

    @property
    def _part(self) -> Part:
        return "hidden_mean" if self.pool == "mean" else "hidden_last"

    @property
    def parts(self) -> frozenset[Part]:  # type: ignore[override]
        """The state that is wanted."""
        return frozenset({self._part})

    def reduce(self, answers: AnswerParts) -> Columns:
        """`vector` float32 (n, d), NaN where a row has no pass."""
        return {"vector": answers.parts[self._part], **answers.facts}
