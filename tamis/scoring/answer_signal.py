"""What signals of answers have in common: a model, and forward passes shared with others."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from tamis.language import load
from tamis.language.forward import LOGPROB
from tamis.language.network import Part
from tamis.recipe import Model
from tamis.scoring.base import Rendering

# The columns `AnswerParts.facts` gives each of them.
FACTS = ("tokens", "cut", "reason")


@dataclass(frozen=True)
class AnswerSignal:
    """A `PassScorer` but for its name, its `parts` and its formula."""

    model: Model
    device: str

    renderings: ClassVar[frozenset[Rendering]] = frozenset({"conditional"})
    parts: ClassVar[frozenset[Part]] = LOGPROB

    def identity(self) -> Mapping[str, Any]:
        """The model, and the options."""
        options = [f.name for f in dataclasses.fields(self) if f.name not in ("model", "device")]
        return {"model": load.identity(self.model), **{n: getattr(self, n) for n in options}}

    def check(self) -> None:
        """Raise if the model is not there."""
        load.check(self.model)
