"""Long texts in windows, where a model reads two texts together and not so much."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

# More pairs of windows than this are not compared: two texts of eight windows each.
MOST_PAIRS = 64
# Behind these a sentence ends; what is between stays with the sentence before.
_END = re.compile(r"[.!?]+[\"')\]]*\s+|[。！？]+|\n+")
# Tokens of each text of a list, without special ones.
Count = Callable[[Sequence[str]], np.ndarray]


class Windows(NamedTuple):
    """Pairs of windows of two texts, and the share of their tokens that stands in none."""

    pairs: list[tuple[str, str]]
    cut: float


def windows(one: str, other: str, room: int, count: Count) -> Windows:
    """What of two texts that are longer than `room` tokens together is read together.

    Each is split into whole sentences: a text of less than half the room stays whole and leaves the
    rest to the other one, else both have half. A sentence that is longer is halved until it fits.
    Every window meets every one of the other text, at most 64 pairs: then those that stand at like
    places of their texts, the first ones first. O(tokens).
    """
    sizes = count([one, other])
    half = room // 2
    shortest = int(sizes.min())
    limits = [half, half]
    if shortest <= half:
        limits = [shortest if size == shortest else room - shortest for size in sizes.tolist()]
    split = [list(_packed(t, k, count)) for t, k in zip((one, other), limits, strict=True)]
    places = _alike(len(split[0]), len(split[1]))[:MOST_PAIRS]
    tokens = [count(parts) for parts in split]
    read = sum(int(t[np.unique(places[:, side])].sum()) for side, t in enumerate(tokens))
    pairs = [(split[0][i], split[1][j]) for i, j in places.tolist()]
    return Windows(pairs, 1 - read / max(1, sum(int(t.sum()) for t in tokens)))


def _packed(text: str, limit: int, count: Count) -> Iterator[str]:
    """The text in pieces of at most `limit` tokens, cut behind sentences where that can be."""
    held, size = "", 0
    for piece, tokens in _pieces(text, max(1, limit), count):
        if held and size + tokens > limit:
            yield held
            held, size = "", 0
        held, size = held + piece, size + tokens
    if held or not text:
        yield held


def _pieces(text: str, limit: int, count: Count) -> Iterator[tuple[str, int]]:
    """Sentences with their tokens; longer ones in halves."""
    ends = [0, *(m.end() for m in _END.finditer(text)), len(text)]
    sentences = [text[a:b] for a, b in pairwise(ends) if a < b]
    if not sentences:
        return
    for sentence, tokens in zip(sentences, count(sentences).tolist(), strict=True):
        if tokens <= limit or len(sentence) < 2:
            yield sentence, tokens
            continue
        middle = len(sentence) // 2
        space = sentence.rfind(" ", 1, middle + 1)
        cut = space if space > 0 else middle
        for part in (sentence[:cut], sentence[cut:]):
            yield from _pieces(part, limit, count)


def _alike(a: int, b: int) -> np.ndarray:
    """All pairs (i, j) of windows, those at like places of their texts first: int64 (a b, 2)."""
    i, j = (g.reshape(-1) for g in np.meshgrid(np.arange(a), np.arange(b), indexing="ij"))
    apart = np.abs(j - i * b // a) + np.abs(i - j * a // b)
    order = np.lexsort((j, i, apart))
    return np.stack([i, j], axis=1)[order]
