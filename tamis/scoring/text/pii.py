"""Personal data and secrets that can be told by their form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from tamis import samples
from tamis.scoring.base import Advance, Columns
from tamis.scoring.text import identifiers
from tamis.scoring.views import View, text


@dataclass(frozen=True)
class Pii:
    """Counts of mail addresses, phone numbers, card numbers, IBANs, keys and IP addresses.

    Each is told by its form and, where it has one, its check digits, and made to be right rather
    than complete: names, street addresses and numbers without a form are not found. Reads the turns
    of the `view`, and with `context` system prompts, tools and their results too. A row without
    text has none.
    """

    view: View = "all"
    context: bool = True

    name: ClassVar[str] = "pii"
    version: ClassVar[int] = 1
    about: ClassVar[Mapping[str, str]] = {
        "sentence": "Counts mail addresses, phone and card numbers, keys and the like.",
        "needs": "the texts",
        "view": "all, or as option view says",
        "cost": "half a minute per 100k rows on one core",
        "avoid": "as a promise that nothing personal is left: names and places have no form",
    }
    fields = ("mails", "phones", "cards", "ibans", "keys", "ips", "any")

    @property
    def warnings(self) -> list[str]:
        """None."""
        return []

    def identity(self) -> Mapping[str, Any]:
        """The options."""
        return {"view": self.view, "context": self.context}

    def check(self) -> None:
        """Nothing to check."""

    def score(self, batch: pa.RecordBatch, *, advance: Advance) -> Columns:
        """The counts as int64, and `any`, bool."""
        tools = samples.decode_tools(batch.column("tools")) if self.context else [None] * len(batch)
        counts = np.zeros((len(batch), len(identifiers.FINDERS)), dtype=np.int64)
        rows = zip(samples.decode_messages(batch.column("messages")), tools, strict=True)
        for row, (messages, offered) in enumerate(rows):
            found = text(messages, self.view, context=self.context, tools=offered)
            counts[row] = identifiers.count(found)
        advance(len(batch))
        columns = {name: counts[:, i] for i, name in enumerate(identifiers.FINDERS)}
        return {**columns, "any": counts.any(axis=1)}
