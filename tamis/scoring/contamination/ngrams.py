"""Rows that hold the words of a benchmark item."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
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
# A run in more texts of the benchmark would pair every row with all of them, so it is left out
# whatever `common` says.
_MOST = 1000
# A run in fewer texts of the benchmark tells an item, however frequent it is in the pool.
_SEVERAL = 3
# What is left of a hash for the table of 2^22 entries.
_SEEN = np.uint64(42)


@dataclass(frozen=True)
class Contamination:
    """How much of a benchmark text a row holds, by runs of `ngram` words.

    overlap = |A & B| / min(|A|, |B|) with A the runs of the row's view and B those of a text of
    `against`; the row gets its largest overlap and the text it is with, the first on ties. In
    scripts without spaces a character is a word. A benchmark text of 8 to `ngram` - 1 words is one
    run, which the row holds or not; shorter ones are left out and counted. `against` names files
    (Parquet, JSON, JSON lines) and hub datasets (`hf:NAME?config=...&split=...&revision=...`, split
    `test` if not told); `columns` restricts their texts.

    Boilerplate, such as a prompt template, counts on neither side: runs in more than `common` texts
    of the benchmarks, and runs in three of them or more that are in more than `common` rows of the
    pool too. A run of one or two texts tells an item however many rows hold it, since a copied
    question may have many answers. `common` None counts every run, but for those in more than 1,000
    texts.

    O(ngram x words), twice for rows that share a run; memory 16 bytes a run of the benchmark, a
    table of 4 MB and one block.

    Source: the 13 words are those of Brown et al., "Language Models are Few-Shot Learners", 2020
    (arXiv 2005.14165), which counts any shared run as a hit; here it is a share. The filter for the
    Pile in EleutherAI/lm-evaluation-harness (`generate_13_grams.py`) and NVIDIA's NeMo Curator
    (`max_matches`) leave out runs of more than ten training documents, whatever the benchmark.
    """

    against: tuple[str, ...] = ()
    columns: tuple[str, ...] | None = None
    ngram: int = 13
    common: int | None = 10
    view: View = "all"

    name: ClassVar[str] = "contamination"
    version: ClassVar[int] = 2
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
        return {
            "against": self._texts.digest(),
            "ngram": self.ngram,
            "common": self.common,
            "view": self.view,
        }

    def check(self) -> None:
        """Raise if no benchmark is named, a file is missing, or an option is out of range."""
        if self.common is not None and self.common < 1:
            raise RecipeError(f"contamination: common must be 1 or more, got {self.common}")
        if self.ngram < benchmarks.SHORTEST:
            raise RecipeError(
                f"contamination: ngram must be {benchmarks.SHORTEST} or more, got {self.ngram}"
            )
        benchmarks.check(self.against)

    def score_pool(self, rows: Rows, *, advance: Advance) -> PoolColumns:
        """`overlap`, the `matched` text and its `item`, null where nothing is shared, `reason`."""
        index = _Index(self._texts.tokens, self.ngram, self.common)
        overlap = np.full(rows.n, np.nan)
        number = np.full(rows.n, -1, dtype=np.int64)
        shares = np.zeros(rows.n, dtype=bool)
        for places, tokens in self._read(rows, np.ones(rows.n, dtype=bool)):
            some = np.diff(tokens.indptr) > 0
            overlap[places[some]] = 0
            shares[places] = index.count(tokens)
            advance(int((~shares[places]).sum()))
        for places, tokens in self._read(rows, shares):
            overlap[places], number[places] = index.best(tokens)
            advance(len(places))
        reason = np.full(rows.n, None, dtype=object)
        reason[np.isnan(overlap)] = NO_WORDS
        facts = {
            "benchmark_texts": len(self._texts.texts),
            "texts_too_short": self._texts.short,
            "common_runs": len(index.common) + int(index.often.sum()),
            "texts_all_common": int((index.sizes == 0).sum()),
        }
        columns = {"overlap": overlap, **self._texts.matched(number), "reason": reason}
        return PoolColumns(columns, facts=facts)

    def _read(self, rows: Rows, wanted: NDArray[np.bool_]) -> Iterator[tuple[Numbers, Ragged]]:
        """The words of the rows that are wanted, a block at a time."""
        for places, batch in rows.batches():
            some = wanted[places]
            places, messages = places[some], batch.column("messages").filter(pa.array(some))
            found = [text(m, self.view) for m in samples.decode_messages(messages)]
            for start, stop in shingles.blocks(found):
                yield places[start:stop], shingles.tokens(found[start:stop])

    @cached_property
    def _texts(self) -> benchmarks.Texts:
        return benchmarks.read(self.against, self.columns)


class _Index:
    """The runs of texts, to look those of rows up in."""

    def __init__(self, tokens: Ragged, n: int, common: int | None) -> None:
        sizes = np.diff(tokens.indptr)
        # A text shorter than n is one run, so rows are cut into runs of its length too.
        self.lengths = np.unique(np.minimum(sizes, n)).tolist()
        grams = shingles.distinct(shingles.ngrams(tokens, n))
        owner = np.repeat(np.arange(len(grams)), np.diff(grams.indptr))
        order = np.argsort(grams.values, kind="stable")
        self.hashes, counts = np.unique(grams.values, return_counts=True)
        indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        form = counts > (_MOST if common is None else min(common, _MOST))
        self.common: U64 = self.hashes[form]
        self.owners = Ragged(indptr, owner[order])[np.flatnonzero(~form)]
        self.hashes = self.hashes[~form]
        self._texts = len(sizes)
        self.n = n
        self._least = np.inf if common is None else common
        # In how many rows of the pool each run was found.
        self._rows = np.zeros(len(self.hashes), dtype=np.int64)
        # Most runs of a row are in no text: one look at this table tells.
        self.seen = np.zeros(1 << 22, dtype=bool)
        self.seen[self.hashes >> _SEEN] = True

    @property
    def often(self) -> NDArray[np.bool_]:
        """Which runs are boilerplate of the pool."""
        return (self._rows > self._least) & (np.diff(self.owners.indptr) >= _SEVERAL)

    def count(self, tokens: Ragged) -> NDArray[np.bool_]:
        """Count the runs of these rows, and mark the rows that share one with a text."""
        row, place = self._hits(tokens)
        self._rows += np.bincount(place, minlength=len(self.hashes))
        marked = np.zeros(len(tokens), dtype=bool)
        marked[row] = True
        return marked

    def best(self, tokens: Ragged) -> tuple[NDArray[np.float64], Numbers]:
        """The largest overlap of each row and the text it is with, -1 for none, after all rows were
        counted."""
        overlap = np.zeros(len(tokens))
        number = np.full(len(tokens), -1, dtype=np.int64)
        row, place = self._hits(tokens)
        rare = ~self.often[place]
        row, owners = row[rare], self.owners[place[rare]]
        pair = np.repeat(row, np.diff(owners.indptr)) * len(self.sizes) + owners.values
        pair, shared = np.unique(pair, return_counts=True)
        first, second = np.divmod(pair, len(self.sizes))
        held = self._counted(tokens, np.unique(first))
        share = shared / np.minimum(held[first], self.sizes[second])
        # The best of a row is written last.
        order = np.lexsort((-second, share))
        overlap[first[order]] = share[order]
        number[first[order]] = second[order]
        return overlap, number

    @cached_property
    def sizes(self) -> Numbers:
        """How many runs of each text are no boilerplate, after all rows were counted."""
        rare = np.flatnonzero(~self.often)
        return np.bincount(self.owners[rare].values, minlength=self._texts)

    @cached_property
    def _boilerplate(self) -> U64:
        return np.concatenate([self.common, self.hashes[self.often]])

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
        """How many distinct runs of the full length the rows `some` have that are no boilerplate;
        at least 1, as a row of fewer words may still be a whole text."""
        runs = shingles.distinct(shingles.ngrams(tokens[some], self.n))
        row = np.repeat(some, np.diff(runs.indptr))
        rare = ~np.isin(runs.values, self._boilerplate)
        return np.maximum(np.bincount(row[rare], minlength=len(tokens)), 1)
