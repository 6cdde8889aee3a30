"""Texts as sets of hashed word n-grams, all texts of a batch at once.

A token is a run of word characters (the `\\w` of regular expressions), lower-cased; in scripts that
are written without spaces each character is a token, so that Chinese is shingled by character.
Hashes are 64 bits wide, the same in every process, and depend on the text alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from tamis.numerics.minhash import mix
from tamis.numerics.ragged import Ragged
from tamis.scoring.length import UNSPACED

U64 = NDArray[np.uint64]

# Characters hashed at once: the arrays of a block stay in the cache of the processor.
BLOCK_CHARS = 131_072

# Thai, Lao, Tibetan, Burmese and Khmer have no spaces between words either.
_CHARACTERS = re.compile(f"[{UNSPACED}\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff]")
_WORD, _ALONE = 1, 2
# Any odd numbers will do: they make the place of a character or token count.
_IN_WORD = np.uint64(0x9E3779B97F4A7C15)
_IN_GRAM = np.uint64(0xD1342543DE82EF95)


def blocks(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Stretches (start, stop) of `texts` of at most `BLOCK_CHARS` characters, or of one text."""
    start = size = 0
    for i, text in enumerate(texts):
        if i > start and size + len(text) > BLOCK_CHARS:
            yield start, i
            start, size = i, 0
        size += len(text)
    if start < len(texts):
        yield start, len(texts)


def tokens(texts: Sequence[str]) -> Ragged:
    """The hashes (uint64) of the tokens of each text, in order; none where it has no word.

    Works on all texts at once, so give it one of the `blocks`. O(characters).
    """
    lowered = [text.lower() for text in texts]
    sizes = np.array([len(text) + 1 for text in lowered], dtype=np.int64)
    # A text ends with a line break, which is no word character: no token goes on into the next.
    codes = _codes("".join(f"{text}\n" for text in lowered))
    kinds = _kinds()[codes]
    word = kinds == _WORD
    begins = kinds > 0
    begins[1:] &= ~(word[1:] & word[:-1])
    starts = np.flatnonzero(begins)
    # What stands between two tokens counts as nothing.
    letters = (codes.astype(np.uint64) + np.uint64(1)) * (kinds > 0)
    hashes = _summed(letters, starts, _IN_WORD)
    indptr = np.concatenate([[0], np.searchsorted(starts, np.cumsum(sizes))]).astype(np.int64)
    return Ragged(indptr, mix(hashes))


def _codes(joined: str) -> NDArray[np.uint8] | NDArray[np.uint32]:
    if joined.isascii():
        return np.frombuffer(joined.encode("ascii"), dtype=np.uint8)
    return np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


def ngrams(found: Ragged, n: int) -> Ragged:
    """The hashes of the runs of `n` tokens of each row, in order.

    A row of 1 to n - 1 tokens gives one hash, that of all of them, which is the one they have as a
    run of so many tokens. O(n x tokens).
    """
    sizes = np.diff(found.indptr)
    counts = np.where(sizes >= n, sizes - n + 1, np.minimum(sizes, 1))
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    offset = np.arange(indptr[-1]) - np.repeat(indptr[:-1], counts)
    first = np.repeat(found.indptr[:-1], counts) + offset
    short = np.flatnonzero(np.repeat(sizes < n, counts))
    last = np.repeat(found.indptr[1:], counts)[short]
    padded = np.concatenate([found.values, np.zeros(n, dtype=np.uint64)])
    total = np.zeros(len(first), dtype=np.uint64)
    weights = _powers(_IN_GRAM, n)
    for place in range(n):
        term = padded[first + place]
        term[short[first[short] + place >= last]] = 0
        total += term * weights[place]
    return Ragged(indptr, mix(total))


def distinct(grams: Ragged) -> Ragged:
    """Each hash of a row once, ascending. O(hashes x log(hashes))."""
    rows = np.repeat(np.arange(len(grams)), np.diff(grams.indptr))
    order = np.lexsort((grams.values, rows))
    rows, values = rows[order], grams.values[order]
    new = np.ones(len(values), dtype=bool)
    new[1:] = (rows[1:] != rows[:-1]) | (values[1:] != values[:-1])
    counts = np.bincount(rows[new], minlength=len(grams))
    return Ragged(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), values[new])


def sequences(found: Ragged) -> U64:
    """One hash a row, of all its tokens in order; 0 for a row without tokens."""
    hashes = np.zeros(len(found), dtype=np.uint64)
    some = np.flatnonzero(np.diff(found.indptr))
    if len(some):
        hashes[some] = mix(_summed(found.values, found.indptr[:-1][some], _IN_GRAM))
    return hashes


def _summed(values: U64, starts: NDArray[np.int64], base: np.uint64) -> U64:
    """The sums of values[i] * base^(place in its run) mod 2^64, of the runs that begin at
    `starts`."""
    if not len(starts):
        return np.empty(0, dtype=np.uint64)
    sizes = np.diff(starts, append=len(values))
    place = np.arange(starts[0], len(values)) - np.repeat(starts, sizes)
    weighed = values[starts[0] :] * _powers(base, int(sizes.max()))[place]
    return np.add.reduceat(weighed, starts - starts[0])


def _powers(base: np.uint64, count: int) -> U64:
    powers = np.full(count, base, dtype=np.uint64)
    powers[:1] = 1
    return np.multiply.accumulate(powers)


@cache
def _kinds() -> NDArray[np.uint8]:
    """For every code point: 0 for no part of a word, `_WORD`, or `_ALONE` for a token by itself."""
    every = "".join(map(chr, range(0x110000)))
    kinds = np.fromiter(map(str.isalnum, every), dtype=np.uint8, count=len(every))
    kinds[ord("_")] = _WORD
    alone = np.fromiter((m.start() for m in _CHARACTERS.finditer(every)), dtype=np.int64)
    kinds[alone[kinds[alone] == _WORD]] = _ALONE
    return kinds
