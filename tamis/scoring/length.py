"""How long the texts of a row are, without any model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from tamis import samples
from tamis.scoring.base import Advance, Columns
from tamis.scoring.views import VIEWS, text

# Han, kana, bopomofo and the half- and full-width forms: written without spaces between words.
UNSPACED = (
    "\u3040-\u30ff\u3100-\u312f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\uff66-\uff9d\U00020000-\U0003ffff"
)
WORD = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+(?:['’\-][^\W{UNSPACED}]+)*")


def words(value: str) -> int:
    """Count words: runs of letters and digits, joined by inner apostrophes and hyphens.

    A Chinese or Japanese character counts as a word. Korean, which has spaces, does not differ from
    English. O(characters).
    """
    return sum(1 for _ in WORD.finditer(value))


@dataclass(frozen=True)
class Length:
    """Characters and words of each view, and the number of assistant turns.

    The length baselines of deita (Liu et al., 2023, arXiv 2312.15685): instruction length as
    complexity, response length as quality. They counted tokens; see `tokens` for those.
    """

    name: ClassVar[str] = "length"
    version: ClassVar[int] = 1
    about: ClassVar[Mapping[str, str]] = {
        "sentence": "Counts characters, words and turns.",
        "needs": "nothing",
        "view": "user, answer and all",
        "cost": "about 10 seconds per 100k rows",
        "avoid": "as a measure of quality: long answers are often padded ones",
    }
    fields = (*(f"{view}_{unit}" for view in VIEWS for unit in ("chars", "words")), "turns")

    def identity(self) -> Mapping[str, Any]:
        """There are no options."""
        return {}

    def check(self) -> None:
        """Nothing can be missing."""

    @property
    def warnings(self) -> list[str]:
        """None."""
        return []

    def score(self, batch: pa.RecordBatch, *, advance: Advance) -> Columns:
        """Counts as int64 arrays (n,)."""
        rows = samples.decode_messages(batch.column("messages"))
        columns: dict[str, np.ndarray] = {}
        for view in VIEWS:
            texts = [text(messages, view) for messages in rows]
            columns[f"{view}_chars"] = np.array([len(t) for t in texts], dtype=np.int64)
            columns[f"{view}_words"] = np.array([words(t) for t in texts], dtype=np.int64)
        turns = [sum(m["role"] == "assistant" for m in messages) for messages in rows]
        columns["turns"] = np.array(turns, dtype=np.int64)
        advance(len(rows))
        return columns
