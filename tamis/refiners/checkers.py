"""Whether an answer says the same as a reference, by rules: yes, no, or None for another to say."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Literal

Verdict = Literal["yes", "no", "error", "empty", "skipped"]
_MARKER = re.compile(r"(?:####|\bthe answer is\b)\s*:?", re.IGNORECASE)
# A minus right behind a digit is no sign: "2-4" ends in 4.
_NUMBER = re.compile(r"(?:(?<!\d)-\$?)?\d[\d,]*(?:\.\d+)?|(?:(?<!\d)-)?\.\d+")
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_TOLERANCE = Decimal("1e-6")


def numeric(text: str, gold: str) -> Verdict | None:
    """Compare the last number after an answer marker, else the last of all; None if the reference
    has no number. Currency, per cent signs and thousands separators do not count."""
    wanted = last_number(gold)
    if wanted is None:
        return None
    got = last_number(text)
    if got is None:
        return "no"
    return "yes" if abs(got - wanted) <= _TOLERANCE * max(abs(wanted), abs(got)) else "no"


def exact(text: str, gold: str) -> Verdict | None:
    """Yes if both are equal but for case, punctuation, articles and white space; else None."""
    return "yes" if plain(text) == plain(gold) else None


def contains(text: str, gold: str) -> Verdict | None:
    """Yes if the reference stands in the answer as whole words, both made plain; None if nothing
    is left of the reference."""
    wanted = plain(gold)
    if not wanted:
        return None
    return "yes" if f" {wanted} " in f" {plain(text)} " else "no"


def last_number(text: str) -> Decimal | None:
    """The last number behind the last answer marker that has one behind it, else of the text."""
    marks = list(_MARKER.finditer(text))
    tail = text[marks[-1].end() :] if marks else ""
    for part in (tail, text):
        found = _NUMBER.findall(part)
        if found:
            try:
                return Decimal(re.sub(r"[,$\s]", "", found[-1]))
            except InvalidOperation:
                return None
    return None


def plain(text: str) -> str:
    """Case folded, compatibility forms joined, without punctuation and articles, single spaces."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    letters = "".join(" " if unicodedata.category(c)[0] == "P" else c for c in folded)
    return " ".join(_ARTICLES.sub(" ", letters).split())


CHECKERS: dict[str, Callable[[str, str], Verdict | None]] = {
    "exact": exact,
    "contains": contains,
    "numeric": numeric,
}
