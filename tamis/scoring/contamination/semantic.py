"""Rows that say what a benchmark item says, in other words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from tamis import samples
from tamis.numerics.blocked import nearest, unit_rows
from tamis.recipe import Model
from tamis.scoring.base import Advance, PoolColumns, Rows
from tamis.scoring.contamination import benchmarks
from tamis.scoring.encoder import Encoder
from tamis.scoring.views import View, text

NO_TEXT = "no_text"


@dataclass(frozen=True)
class ContaminationSemantic:
    """The largest cosine of a row's text with a benchmark text, and which it is.

    The same encoder reads both. `against` and `columns` are those of `contamination`; benchmark
    texts of fewer than 8 words are left out. The first text wins on ties. The view is `user` by
    default, as most benchmarks leak by their questions.

    One embedding a row and a benchmark text; O(rows x texts x d) in blocks.

    Source: Yang et al., "Rethinking Benchmark and Contamination for Language Models with Rephrased
    Samples", 2023 (arXiv 2311.04850), whose search by embeddings this is; their second step, a
    language model that judges the nearest items, is left out.
    """

    model: Model | str | None
    device: str
    against: tuple[str, ...] = ()
    columns: tuple[str, ...] | None = None
    view: View = "user"

    name: ClassVar[str] = "contamination_semantic"
    version: ClassVar[int] = 2
    about: ClassVar[Mapping[str, str]] = {
        "sentence": "Tells the benchmark item whose meaning is nearest to a row's.",
        "needs": "a sentence encoder, and the benchmark's files or its name on the hub",
        "view": "user, or as option view says",
        "cost": "that of embed, and a minute per 100k rows and 10k benchmark texts",
        "avoid": "without a look at what it matched: questions of one topic are near each other",
    }
    encoder: ClassVar[bool] = True
    fields = ("similarity", "matched", "item", "cut", "reason")

    def needs(self) -> frozenset[str]:
        """No column: it reads the texts."""
        return frozenset()

    def identity(self) -> Mapping[str, Any]:
        """The encoder and the benchmarks by content, and the view."""
        return {
            "encoder": self._encoder.identity(),
            "against": self._texts.digest(),
            "view": self.view,
        }

    def check(self) -> None:
        """Raise if no benchmark is named, or a file or the encoder is missing."""
        benchmarks.check(self.against)
        self._encoder.check()

    @property
    def warnings(self) -> list[str]:
        """That the offline default is in use."""
        return self._encoder.warnings

    def score_pool(self, rows: Rows, *, advance: Advance) -> PoolColumns:
        """`similarity`, the `matched` text, its `item`, `cut`, the share of the row's text that was
        not read, `reason`."""
        items = unit_rows(self._encoder.encode(self._texts.texts)[0])
        similarity, cut = np.full(rows.n, np.nan), np.full(rows.n, np.nan)
        number = np.full(rows.n, -1, dtype=np.int64)
        for places, batch in rows.batches():
            found = [text(m, self.view) for m in samples.decode_messages(batch.column("messages"))]
            vectors, cut[places] = self._encoder.encode(found)
            some = np.array([bool(t) for t in found], dtype=bool)
            cut[places[~some]] = np.nan
            if some.any():
                index, squared = nearest(unit_rows(vectors[some]), items)
                # Of unit vectors |a - b|^2 = 2 - 2 a . b.
                similarity[places[some]] = 1 - squared / 2
                number[places[some]] = index
            advance(len(places))
        reason = np.full(rows.n, None, dtype=object)
        reason[number < 0] = NO_TEXT
        columns = {
            "similarity": similarity,
            **self._texts.matched(number),
            "cut": cut,
            "reason": reason,
        }
        facts = {"benchmark_texts": len(items), "texts_too_short": self._texts.short}
        return PoolColumns(columns, facts=facts)

    @cached_property
    def _texts(self) -> benchmarks.Texts:
        return benchmarks.read(self.against, self.columns)

    @cached_property
    def _encoder(self) -> Encoder:
        return Encoder(self.model, self.device, self.name)
