"""Simple measures of a text's form, and the phrases that give a bad answer away."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tamis import samples
from tamis.scoring import shingles
from tamis.scoring.base import Advance, Columns
from tamis.scoring.length import WORD
from tamis.scoring.text import patterns
from tamis.scoring.views import View, text

NO_TEXT = "no_text"
# Words of the runs whose repetition counts.
_RUN = 10
# A last sentence without an end of fewer words may be a name, a number or a caption.
_FRAGMENT = 5
_LETTER, _DIGIT, _SYMBOL = 1, 2, 3


@dataclass(frozen=True)
class Heuristics:
    """Lengths, shares of kinds of characters, repetition, refusals, set phrases, broken ends.

    All of the text of the `view`; the last four are of its turns, and count if one turn has them.
    A row without text has no value.

    Source: the measures of Rae et al., "Scaling Language Models" (Gopher), 2021 (arXiv 2112.11446,
    appendix A), as columns and not as limits; the phrases are our own.
    """

    view: View = "answer"

    name: ClassVar[str] = "heuristics"
    version: ClassVar[int] = 1
    about: ClassVar[Mapping[str, str]] = {
        "sentence": "Measures of a text's form: repetition, symbols, refusals, broken ends.",
        "needs": "the texts",
        "view": "answer, or as option view says",
        "cost": "half a minute per 100k rows on one core",
        "avoid": "as a measure of quality: it knows bad form, not good content",
    }
    fields = (
        "characters",
        "words",
        "mean_word_length",
        "alphabetic",
        "digits",
        "symbols",
        "repeated_lines",
        "repeated_ngrams",
        "bullet_lines",
        "ellipsis_lines",
        "refusal",
        "boilerplate",
        "open_fence",
        "cut_off",
        "reason",
    )

    @property
    def warnings(self) -> list[str]:
        """None."""
        return []

    def identity(self) -> Mapping[str, Any]:
        """The view."""
        return {"view": self.view}

    def check(self) -> None:
        """Nothing to check."""

    def score(self, batch: pa.RecordBatch, *, advance: Advance) -> Columns:
        """Every measure as float64, NaN where the view has no text; `reason`."""
        rows = samples.decode_messages(batch.column("messages"))
        turns = [[t for m in row if (t := text([m], self.view))] for row in rows]
        texts = ["\n\n".join(row) for row in turns]
        found = {
            **_shares(texts),
            **_named(("words", "mean_word_length"), [_words(t) for t in texts]),
            "repeated_ngrams": _repeated_ngrams(texts),
            **_named(
                ("repeated_lines", "bullet_lines", "ellipsis_lines"), [_lines(t) for t in texts]
            ),
            **_named(
                ("refusal", "boilerplate", "open_fence", "cut_off"), [_signs(r) for r in turns]
            ),
        }
        empty = np.array([not t for t in texts], dtype=bool)
        reason = np.full(len(texts), None, dtype=object)
        reason[empty] = NO_TEXT
        advance(len(texts))
        values = {name: np.where(empty, np.nan, found[name]) for name in self.fields[:-1]}
        return {**values, "reason": reason}


def cut_off(turn: str) -> bool:
    """Whether a text ends in the middle of a sentence.

    It does when its last line ends in a comma, colon or dash or in a word such as "the" or "and";
    and when the text ends its sentences elsewhere and leaves the last one, of five words or more,
    without an end. Code, tables, headings, tags and lists do not count by the second rule.
    """
    turn = turn.rstrip()
    last = turn[turn.rfind("\n") + 1 :].strip()
    if patterns.FENCE.search(turn) and (last.startswith(("```", "~~~")) or open_fence(turn)):
        return False
    tail = last.rstrip(patterns.CLOSING)
    ends = [m.end() for m in patterns.ENDS.finditer(turn)]
    if not tail or (ends and ends[-1] >= len(turn.rstrip(patterns.CLOSING))):
        return False
    words = WORD.findall(tail)
    if tail.endswith(patterns.DANGLING_MARKS):
        return len(words) > 1
    if words and words[-1] in patterns.DANGLING_WORDS and tail.endswith(words[-1]):
        return len(words) > 1
    if len(ends) < 2 or patterns.BULLET.match(last) or last.startswith(("#", "|", ">")):
        return False
    start = max([e for e in ends if e > len(turn) - len(last)], default=len(turn) - len(last))
    fragment = WORD.findall(turn[start:])
    return len(fragment) >= _FRAGMENT and not any(mark in last for mark in ("=", "://", " #"))


def open_fence(turn: str) -> bool:
    """Whether a fence of code is opened and not closed."""
    return len(patterns.FENCE.findall(turn)) % 2 == 1


def _signs(turns: Sequence[str]) -> tuple[bool, bool, bool, bool]:
    return (
        any(patterns.REFUSAL.search(t[: patterns.OPENING]) for t in turns),
        any(patterns.boilerplate(t) for t in turns),
        any(open_fence(t) for t in turns),
        any(cut_off(t) for t in turns),
    )


def _words(value: str) -> tuple[float, float]:
    found = WORD.findall(value)
    return len(found), sum(map(len, found)) / len(found) if found else np.nan


def _lines(value: str) -> tuple[float, float, float]:
    """Shares of the lines with text: repeated, bulleted, ending in an ellipsis."""
    lines = [line.strip() for line in value.splitlines() if line.strip()]
    count = max(1, len(lines))
    return (
        1 - len(set(lines)) / count if lines else 0.0,
        sum(1 for line in lines if patterns.BULLET.match(line)) / count,
        sum(1 for line in lines if line.endswith(("...", "…"))) / count,
    )


def _repeated_ngrams(texts: Sequence[str]) -> NDArray[np.float64]:
    """The share of the runs of ten words that came before in the text."""
    shares = []
    for start, stop in shingles.blocks(texts):
        runs = shingles.ngrams(shingles.tokens(texts[start:stop]), _RUN)
        count = np.diff(runs.indptr)
        shares.append(1 - np.diff(shingles.distinct(runs).indptr) / np.maximum(count, 1))
        shares[-1][count == 0] = 0
    return np.concatenate([np.zeros(0), *shares])


def _shares(texts: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """The number of characters, and the shares of letters, digits and symbols of those that are
    no space."""
    kinds = np.zeros((len(texts), 4))
    for start, stop in shingles.blocks(texts):
        part = texts[start:stop]
        codes = np.frombuffer("".join(part).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        row = np.repeat(np.arange(stop - start), [len(t) for t in part])
        counts = np.bincount(4 * row + _kinds()[codes], minlength=4 * (stop - start))
        kinds[start:stop] = counts.reshape(-1, 4)
    inked = np.maximum(kinds[:, 1:].sum(axis=1), 1)
    return {
        "characters": kinds.sum(axis=1),
        "alphabetic": kinds[:, _LETTER] / inked,
        "digits": kinds[:, _DIGIT] / inked,
        "symbols": kinds[:, _SYMBOL] / inked,
    }


def _named(names: Sequence[str], rows: Sequence[tuple[float, ...]]) -> dict[str, np.ndarray]:
    table = np.array(rows, dtype=np.float64).reshape(len(rows), len(names))
    return {name: table[:, i] for i, name in enumerate(names)}


@cache
def _kinds() -> NDArray[np.uint8]:
    """For every code point: 0 (a space or control), a letter (with its marks), digit or symbol."""
    of = {"L": _LETTER, "M": _LETTER, "N": _DIGIT, "P": _SYMBOL, "S": _SYMBOL}
    every = (of.get(unicodedata.category(chr(i))[0], 0) for i in range(0x110000))
    return np.fromiter(every, dtype=np.uint8, count=0x110000)
