"""Rows that hold the words of a benchmark item."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tamis import samples
from tamis.errors import RecipeError
from tamis.numerics.ragged import Ragged
from tamis.scoring import shingles
from tamis.scoring.base import Advance, PoolColumns, Rows
from tamis.scoring.contamination import benchmarks
from tamis.scoring.views import View, text

U64 = NDArray[np.uint64]
Numbers = NDArray[np.int64]

NO_WORDS = "no_words"
# A run that stands in more texts is a phrase of the benchmark's form and tells no item.
_COMMON = 1000
# What is left of a hash for the table of 2^22 entries.
_SEEN = np.uint64(42)


@dataclass(frozen=True)
class Contamination:
    """How much of a benchmark text a row holds, by runs of `ngram` words.

    overlap = |A & B| / min(|A|, |B|) with A the runs of the row's view and B those of a text of
    `against`; the row gets its largest overlap and the text it is with, the first on ties. In
    scripts without spaces a character is a word. A benchmark text of 8 to `ngram` - 1 words is one
    run, which the row holds or not; shorter ones are left out and counted. Runs in more than 1,000
    texts are left out on both sides. `against` names files (Parquet, JSON, JSON lines) and hub
    datasets (`hf:NAME?config=...&split=...&revision=...`, split `test` if not told); `columns`
    restricts their texts.

    O(ngram x words); memory 16 bytes a run of the benchmark, a table of 4 MB and one block.

    Source: the 13 words are those of Brown et al., "Language Models are Few-Shot Learners", 2020
    (arXiv 2005.14165), which counts any shared run as a hit; here it is a share.
    """

    against: tuple[str, ...] = ()
    columns: tuple[str, ...] | None = None
    ngram: int = 13
    view: View = "all"

    name: ClassVar[str] = "contamination"
    version: ClassVar[int] = 1
    about: ClassVar[Mapping[str, str]] = {
        "sentence": "Tells how much of a benchmark item a row holds, word for word.",
        "needs": "the benchmark's files, or its name on the hub",
        "view": "all, or as option view says",
        "cost": "15 seconds per 100k rows on one core",
        "avoid": "as the only check: a rephrased item shares no run (contamination_semantic)",
    }
    fields = ("overlap", "matched", "item", "reason")

    def needs(self) -> frozenset[str]:
        """No column: it reads the texts."""
        return frozenset()

    def identity(self) -> Mapping[str, Any]:
        """The options, and the benchmarks by content."""
        return {"against": self._texts.digest(), "ngram": self.ngram, "view": self.view}

    def check(self) -> None:
        """Raise if no benchmark is named, or a file is missing."""
        if self.ngram < benchmarks.SHORTEST:
            raise RecipeError(
                f"contamination: ngram must be {benchmarks.SHORTEST} or more, got {self.ngram}"
            )
        benchmarks.check(self.against)

    def score_pool(self, rows: Rows, *, advance: Advance) -> PoolColumns:
        """`overlap`, the `matched` text and its `item`, null where nothing is shared, `reason`."""
        index = _Index(self._texts.tokens, self.ngram)
        overlap = np.full(rows.n, np.nan)
        number = np.full(rows.n, -1, dtype=np.int64)
        for places, batch in rows.batches():
            found = [text(m, self.view) for m in samples.decode_messages(batch.column("messages"))]
            for start, stop in shingles.blocks(found):
                here = places[start:stop]
                tokens = shingles.tokens(found[start:stop])
                some = np.diff(tokens.indptr) > 0
                value, text_number = index.best(tokens)
                overlap[here[some]] = value[some]
                number[here] = text_number
                advance(len(here))
        reason = np.full(rows.n, None, dtype=object)
        reason[np.isnan(overlap)] = NO_WORDS
        facts = {
            "benchmark_texts": len(self._texts.texts),
            "texts_too_short": self._texts.short,
            "common_runs": len(index.common),
        }
        columns = {"overlap": overlap, **self._texts.matched(number), "reason": reason}
        return PoolColumns(columns, facts=facts)

    @cached_property
    def _texts(self) -> benchmarks.Texts:
        return benchmarks.read(self.against, self.columns)


class _Index:
    """The runs of texts, to look those of rows up in."""

    def __init__(self, tokens: Ragged, n: int) -> None:
        sizes = np.diff(tokens.indptr)
        # A text shorter than n is one run, so rows are cut into runs of its length too.
        self.lengths = np.unique(np.minimum(sizes, n)).tolist()
        grams = shingles.distinct(shingles.ngrams(tokens, n))
        owner = np.repeat(np.arange(len(grams)), np.diff(grams.indptr))
        order = np.argsort(grams.values, kind="stable")
        self.hashes, counts = np.unique(grams.values, return_counts=True)
        indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        rare = np.flatnonzero(counts <= _COMMON)
        self.common: U64 = self.hashes[counts > _COMMON]
        self.owners = Ragged(indptr, owner[order])[rare]
        self.hashes = self.hashes[rare]
        self.sizes = np.bincount(self.owners.values, minlength=len(tokens))
        self.n = n
        # Most runs of a row are in no text: one look at this table tells.
        self.seen = np.zeros(1 << 22, dtype=bool)
        self.seen[self.hashes >> _SEEN] = True

    def best(self, tokens: Ragged) -> tuple[NDArray[np.float64], Numbers]:
        """The largest overlap of each row and the text it is with, -1 for none."""
        overlap = np.zeros(len(tokens))
        number = np.full(len(tokens), -1, dtype=np.int64)
        row, place = self._hits(tokens)
        owners = self.owners[place]
        count = len(self.sizes)
        pair = np.repeat(row, np.diff(owners.indptr)) * count + owners.values
        pair, shared = np.unique(pair, return_counts=True)
        first, second = np.divmod(pair, count)
        held = self._counted(tokens, np.unique(first))
        share = shared / np.minimum(held[first], self.sizes[second])
        # The best of a row is written last.
        order = np.lexsort((-second, share))
        overlap[first[order]] = share[order]
        number[first[order]] = second[order]
        return overlap, number

    def _hits(self, tokens: Ragged) -> tuple[Numbers, Numbers]:
        """(row, place in `hashes`) of the runs that some text has, each once a row."""
        found = []
        for length in self.lengths:
            grams = shingles.ngrams(tokens, length)
            some = np.flatnonzero(self.seen[grams.values >> _SEEN])
            place = np.searchsorted(self.hashes, grams.values[some])
            equal = self.hashes[np.minimum(place, len(self.hashes) - 1)] == grams.values[some]
            row = np.searchsorted(grams.indptr, some[equal], side="right") - 1
            found.append(row * len(self.hashes) + place[equal])
        return np.divmod(np.unique(np.concatenate(found)), len(self.hashes))

    def _counted(self, tokens: Ragged, some: Numbers) -> Numbers:
        """How many distinct runs of the full length the rows `some` have that are not common; at
        least 1, as a row of fewer words may still be a whole text."""
        runs = shingles.distinct(shingles.ngrams(tokens[some], self.n))
        row = np.repeat(some, np.diff(runs.indptr))
        rare = ~np.isin(runs.values, self.common)
        return np.maximum(np.bincount(row[rare], minlength=len(tokens)), 1)
