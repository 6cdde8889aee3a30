"""Rows whose text is the same but for case and spaces."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tamis import samples
from tamis.scoring.base import Advance, PoolColumns, Rows
from tamis.scoring.duplicates import groups
from tamis.scoring.views import View, text


@dataclass(frozen=True)
class DuplicatesExact:
    """Groups of rows with the same text of the `view`, lower-cased, with spaces made one.

    System prompts and tools are no part of a view. The representative is the row with the highest
    `keep` (a column), the lowest row on ties and without it. Rows without text have no value.

    O(characters); memory 32 bytes a text and the columns.
    """

    view: View = "all"
    keep: str | None = None

    name: ClassVar[str] = "duplicates_exact"
    version: ClassVar[int] = 1
    about: ClassVar[Mapping[str, str]] = {
        "sentence": "Groups rows whose texts are the same but for case and spaces.",
        "needs": "the texts",
        "view": "all, or as option view says",
        "cost": "a few seconds per 100k rows on one core",
        "avoid": "when copies differ by a word: see duplicates_minhash",
    }
    fields = groups.FIELDS

    def needs(self) -> frozenset[str]:
        """The column to keep by, if any."""
        return frozenset({self.keep} if self.keep else ())

    def identity(self) -> Mapping[str, Any]:
        """The options."""
        return {"view": self.view, "keep": self.keep}

    def check(self) -> None:
        """Nothing to check."""

    def score_pool(self, rows: Rows, *, advance: Advance) -> PoolColumns:
        """`group`, `representative`, `similarity` (1 everywhere), `size` and `reason`."""
        numbers: dict[bytes, int] = {}
        number = np.full(rows.n, -1, dtype=np.int64)
        for places, batch in rows.batches():
            texts = [text(m, self.view) for m in samples.decode_messages(batch.column("messages"))]
            number[places] = [
                numbers.setdefault(digest(t), len(numbers)) if t else -1 for t in texts
            ]
            advance(len(texts))
        order = groups.preferred(rows, self.keep, number >= 0)
        first, copy_of = groups.copies(number[order])
        leader = order[first][copy_of]
        return groups.columns(rows.n, order, leader, np.ones(len(order)), groups.NO_TEXT)


def digest(value: str) -> bytes:
    """SHA-256 of a text that is lower-cased, stripped and has one space for each run of them."""
    return hashlib.sha256(" ".join(value.lower().split()).encode("utf-8", "replace")).digest()
