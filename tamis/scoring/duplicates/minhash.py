"""Rows that share most of their words in runs: MinHash, bands, and a check of every pair."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tamis import samples
from tamis.errors import RecipeError
from tamis.numerics.minhash import (
    balanced_bands,
    band_keys,
    bands_for_recall,
    met,
    signatures,
)
from tamis.numerics.ragged import Ragged
from tamis.scoring import shingles
from tamis.scoring.base import Advance, PoolColumns, Rows
from tamis.scoring.duplicates import groups, pairs
from tamis.scoring.views import View, text

NO_WORDS = "no_words"
Places = NDArray[np.int64]


@dataclass(frozen=True)
class DuplicatesMinhash:
    """Groups of rows whose texts have a Jaccard similarity of `threshold` or more.

    The texts of the `view` (system prompts are no part of one) are sets of runs of `ngram` words,
    of characters where a script has no spaces; a shorter text is one run. Rows that are equal in a
    band of their MinHash signatures are candidates; a pair counts if its exact Jaccard similarity
    reaches the threshold, so precision is 1. Bands are as long as `permutations` allow for a pair
    at the threshold to be met with probability `recall`; without `recall` they are the balanced
    choice of the field, which misses about half of such pairs.

    `component` puts all that is linked into one group, `greedy` only what is near its
    representative. The representative is the row with the highest `keep` (a column), the lowest
    row on ties and without it. Rows without words have no value.

    O(words x (ngram + permutations)); memory 8 bytes a band and row, and 8 bytes a run of the rows
    that are candidates.

    Source: Broder 1997 and Lee et al., "Deduplicating Training Data Makes Language Models Better",
    2021 (arXiv 2107.06499). Differs from text-dedup: pairs that fail the check do not stay linked,
    and texts shorter than a run are compared.
    """

    threshold: float = 0.7
    recall: float | None = 0.95
    ngram: int = 5
    permutations: int = 128
    view: View = "all"
    grouping: groups.Grouping = "component"
    keep: str | None = None

    name: ClassVar[str] = "duplicates_minhash"
    version: ClassVar[int] = 1
    about: ClassVar[Mapping[str, str]] = {
        "sentence": "Groups rows whose texts share most of their runs of words.",
        "needs": "the texts",
        "view": "all, or as option view says",
        "cost": "10 seconds per 100k rows on one core",
        "avoid": "for paraphrases, which share meaning and not words: see duplicates_semantic",
    }
    fields = groups.FIELDS

    def needs(self) -> frozenset[str]:
        """The column to keep by, if any."""
        return frozenset({self.keep} if self.keep else ())

    def identity(self) -> Mapping[str, Any]:
        """The options."""
        return {
            "threshold": self.threshold,
            "recall": self.recall,
            "ngram": self.ngram,
            "permutations": self.permutations,
            "view": self.view,
            "grouping": self.grouping,
            "keep": self.keep,
        }

    def check(self) -> None:
        """Raise if an option is out of range or the recall cannot be reached."""
        if not 0 < self.threshold <= 1:
            raise RecipeError(f"{self.name}: threshold must be in (0, 1], got {self.threshold:g}")
        if self.recall is not None and not 0 < self.recall < 1:
            raise RecipeError(f"{self.name}: recall must be in (0, 1), got {self.recall:g}")
        if self.ngram < 1 or self.permutations < 1:
            raise RecipeError(f"{self.name} needs ngram >= 1 and permutations >= 1")
        self._bands()

    def score_pool(self, rows: Rows, *, advance: Advance) -> PoolColumns:
        """`group`, `representative`, `similarity`, `size` and `reason`."""
        bands, length = self._bands()
        whole, keys = self._hashed(rows, bands, length, advance)
        order = groups.preferred(rows, self.keep, whole != 0)
        # Texts with the same words throughout are one until the end.
        first, copy_of = groups.copies(whole[order])
        alike = order[first]
        low, high = pairs.candidates(keys, alike)
        leader, similarity, linked = self._grouped(rows, alike, low, high)
        found = groups.columns(rows.n, order, alike[leader[copy_of]], similarity[copy_of], NO_WORDS)
        told = {
            "bands": bands,
            "rows_per_band": length,
            "recall_at_threshold": round(float(met(self.threshold, bands, length)), 4),
            "candidate_pairs": len(low),
            "verified_pairs": linked,
        }
        return PoolColumns(found.columns, facts={**told, **found.facts})

    def links(self, rows: Rows, *, advance: Advance) -> tuple[Places, Places, NDArray[np.float64]]:
        """The pairs (lower, higher) of rows that reach the threshold, and their similarity.

        In a crowd of like rows each is paired with the first one and its neighbours: see `pairs`.
        """
        bands, length = self._bands()
        whole, keys = self._hashed(rows, bands, length, advance)
        some = np.flatnonzero(whole)
        low, high = pairs.candidates(keys, some)
        used, at = np.unique(np.concatenate([low, high]), return_inverse=True)
        first, second = at[: len(low)], at[len(low) :]
        found = pairs.jaccard(self._sets(rows, some[used]), first, second) if len(low) else low
        linked = found >= self.threshold
        return some[low[linked]], some[high[linked]], found[linked].astype(np.float64)

    def _bands(self) -> tuple[int, int]:
        if self.recall is None:
            return balanced_bands(self.threshold, self.permutations)
        return bands_for_recall(self.threshold, self.recall, self.permutations)

    def _hashed(
        self, rows: Rows, bands: int, length: int, advance: Advance
    ) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """A hash of each text, 0 where it has no word, and the keys (n, bands) of its bands."""
        whole = np.zeros(rows.n, dtype=np.uint64)
        keys = np.zeros((rows.n, bands), dtype=np.uint64)
        for places, tokens in _tokens(rows, self.view):
            whole[places] = shingles.sequences(tokens)
            signed = signatures(shingles.ngrams(tokens, self.ngram), bands * length)
            keys[places] = band_keys(signed, bands, length)
            advance(len(places))
        return whole, keys

    def _grouped(
        self, rows: Rows, alike: Places, low: Places, high: Places
    ) -> tuple[Places, NDArray[np.float64], int]:
        """The leader of each distinct text, the similarity to it, and the number of links."""
        leader, similarity = np.arange(len(alike)), np.ones(len(alike))
        if not len(low):
            return leader, similarity, 0
        used, at = np.unique(np.concatenate([low, high]), return_inverse=True)
        sets = self._sets(rows, alike[used])
        first, second = at[: len(low)], at[len(low) :]
        jaccard = pairs.jaccard(sets, first, second)
        linked = jaccard >= self.threshold
        first, second, jaccard = first[linked], second[linked], jaccard[linked]
        if self.grouping == "greedy":
            found = groups.greedy(len(used), first, second, jaccard)
        else:
            found = groups.components(len(used), first, second)
        moved = np.flatnonzero(found != np.arange(len(used)))
        leader[used] = used[found]
        similarity[used[moved]] = pairs.jaccard(sets, moved, found[moved])
        return leader, similarity, len(first)

    def _sets(self, rows: Rows, wanted: Places) -> Ragged:
        """The sets of runs of the wanted rows, read again: most rows are no candidates."""
        place = np.full(rows.n, -1, dtype=np.int64)
        place[wanted] = np.arange(len(wanted))
        sizes = np.zeros(len(wanted), dtype=np.int64)
        parts, numbers = [], [np.empty(0, dtype=np.int64)]
        for places, tokens in _tokens(rows, self.view, place >= 0):
            sets = shingles.ngrams(tokens, self.ngram)
            sizes[place[places]] = np.diff(sets.indptr)
            parts.append(sets.values)
            numbers.append(place[places])
        read = np.concatenate(numbers)
        indptr = np.concatenate([[0], np.cumsum(sizes[read])]).astype(np.int64)
        return Ragged(indptr, np.concatenate(parts))[np.argsort(read)]


def _tokens(
    rows: Rows, view: View, wanted: NDArray[np.bool_] | None = None
) -> Iterator[tuple[Places, Ragged]]:
    """The tokens of the texts of a view, in blocks, with the numbers of their rows."""
    for places, batch in rows.batches():
        if wanted is not None:
            some = wanted[places]
            places, batch = places[some], batch.filter(some)
        texts = [text(m, view) for m in samples.decode_messages(batch.column("messages"))]
        for start, stop in shingles.blocks(texts):
            yield places[start:stop], shingles.tokens(texts[start:stop])
