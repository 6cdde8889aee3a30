"""How many tokens a row costs in training, counted as the trainer counts them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from tamis import samples
from tamis.language import load
from tamis.language.render import cut, renderings
from tamis.language.template import RenderError
from tamis.recipe import Model
from tamis.scoring.base import Advance, Columns


@dataclass(frozen=True)
class Tokens:
    """Tokens of a row after the model's template and cut-off: all of them, and those with loss.

    `max_length` overrides the model's cut-off. The first token of a row never carries loss, since
    nothing predicts it. A row that the trainer splits costs all its parts. Values are float64 so
    that rows that cannot be rendered have none.
    """

    model: Model
    device: str
    max_length: int | None = None

    name: ClassVar[str] = "tokens"
    version: ClassVar[int] = 3
    about: ClassVar[Mapping[str, str]] = {
        "sentence": "Counts the tokens a row costs in training, and those that are learnt.",
        "needs": "the tokenizer of the model that will be tuned",
        "view": "all, as the model's template renders it",
        "cost": "about a minute per 100k rows of 250 tokens on one CPU core",
        "avoid": "never: budgets in tokens need it",
    }
    fields = ("total", "supervised", "cut", "reason")

    def identity(self) -> Mapping[str, Any]:
        """The tokenizer, the prompt style and the cut-off; the weights do not matter."""
        return {
            "tokenizer": load.tokenizer_identity(self._cut),
            "prompt_style": self.model.prompt_style,
            "max_length": load.max_length(self._cut),
        }

    def check(self) -> None:
        """Raise if the model is not there or takes fewer tokens than asked for."""
        load.check(self._cut)

    @property
    def warnings(self) -> list[str]:
        """None."""
        return []

    @property
    def _cut(self) -> Model:
        limit = self.max_length or self.model.max_length
        return self.model.model_copy(update={"max_length": limit})

    @cached_property
    def _tokenizer(self) -> Any:
        return load.load_tokenizer(self.model)

    def score(self, batch: pa.RecordBatch, *, advance: Advance) -> Columns:
        """`total`, `supervised` float64, NaN with a `reason`; `cut`: the share of a row's
        tokens behind the cut-off."""
        limit, n = load.max_length(self._cut), len(batch)
        total, supervised = np.full(n, np.nan), np.full(n, np.nan)
        share, reason = np.full(n, np.nan), np.full(n, None, dtype=object)
        rows = samples.decode_messages(batch.column("messages"))
        tools = samples.decode_tools(batch.column("tools"))
        for i, (messages, offered) in enumerate(zip(rows, tools, strict=True)):
            try:
                whole = renderings(
                    messages, offered, self._tokenizer, prompt_style=self.model.prompt_style
                )
            except RenderError as error:
                reason[i] = error.reason
                continue
            parts = [cut(part, limit) for part in whole]
            total[i] = sum(len(kept.ids) for kept, _ in parts)
            supervised[i] = sum(sum(kept.labelled[1:]) for kept, _ in parts)
            share[i] = 1 - total[i] / max(1, sum(len(part.ids) for part in whole))
        advance(n)
        return {"total": total, "supervised": supervised, "cut": share, "reason": reason}
