"""The planted defects: each takes a clean row and gives back a labelled, damaged one."""

from __future__ import annotations

import random
from dataclasses import replace

from tamis.demo.rows import Row

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_DIRT = "#%&*@~^|<>{}0123456789qxzwk"


def wrong_answer(row: Row, rng: random.Random) -> Row:
    """The last answer becomes a false one of the same form."""
    return _answering(row, row.wrong, "wrong_answer")


def can_truncate(row: Row) -> bool:
    """Whether the last answer is long enough to be cut."""
    return len(row.answer.split()) >= 3


def truncated(row: Row, rng: random.Random) -> Row:
    """The last answer stops in the middle; needs `can_truncate`."""
    words = row.answer.split(" ")
    return _answering(row, " ".join(words[: rng.randint(1, len(words) - 2)]), "truncated")


def noise(row: Row, rng: random.Random) -> Row:
    """The last answer becomes character rubbish; in every second row the question does too."""
    dirty = _answering(row, _garble(row.answer, rng), "noise")
    if rng.random() < 0.5:
        return dirty
    at = max(i for i, m in enumerate(row.messages) if m["role"] == "user")
    messages = list(dirty.messages)
    messages[at] = {**messages[at], "content": _garble(str(messages[at]["content"]), rng)}
    return replace(dirty, messages=tuple(messages), context="")


def exact_duplicate(row: Row, rng: random.Random) -> Row:
    """The row again, word for word."""
    return replace(row, planted="exact_duplicate")


def near_duplicate(row: Row, rng: random.Random) -> Row:
    """The row again with its question worded a little differently; the answer stays."""
    edit = rng.choice((_please, _thanks, _typo, _spaced, _hello))
    at = max(i for i, m in enumerate(row.messages) if m["role"] == "user")
    messages = list(row.messages)
    below = f"\n\n{row.context}" if row.context else ""
    question = str(messages[at]["content"]).removesuffix(below)
    messages[at] = {**messages[at], "content": edit(question, rng) + below}
    return replace(row, messages=tuple(messages), planted="near_duplicate")


def _answering(row: Row, text: str, planted: str) -> Row:
    last = {**row.messages[-1], "content": text}
    return replace(row, messages=(*row.messages[:-1], last), planted=planted)


def _garble(text: str, rng: random.Random) -> str:
    """Dirt in the place of every letter; never so short that it could pass for an answer."""
    spoilt = "".join(c if c == " " else rng.choice(_DIRT) for c in text)
    return spoilt + "".join(rng.choice(_DIRT) for _ in range(max(2, 8 - len(text))))


def _please(text: str, rng: random.Random) -> str:
    return f"Please: {text}"


def _thanks(text: str, rng: random.Random) -> str:
    return f"{text} Thanks!"


def _hello(text: str, rng: random.Random) -> str:
    return f"Hi. {text}"


def _spaced(text: str, rng: random.Random) -> str:
    return text[:-1].replace(" ", "  ", 1) + " " + text[-1]


def _typo(text: str, rng: random.Random) -> str:
    """One letter more in the first word, where it carries no parameter of the question."""
    first, space, rest = text.partition(" ")
    if not space:
        return f"{text} "
    at = rng.randint(1, len(first))
    return first[:at] + rng.choice(_LETTERS) + first[at:] + space + rest
