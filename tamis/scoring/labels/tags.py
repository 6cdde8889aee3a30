"""Tags that the rows came with, cleaned and merged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from tamis.errors import DataError, RecipeError
from tamis.numerics.ragged import Ragged
from tamis.recipe import Model
from tamis.scoring.base import Advance, PoolColumns, Rows
from tamis.scoring.encoder import Encoder
from tamis.scoring.labels import names


@dataclass(frozen=True)
class Tags:
    """The lists of tags in `column`, such as `extra.annotation.instag.content`, as labels.

    Three of the four steps by which InsTag cleans tags: `rule` (lower case, single spaces, no
    punctuation at the ends), frequency (tags of fewer than `least` rows are left out) and meaning
    (tags whose embeddings are within cosine distance `merge` become the most frequent of them, by
    DBSCAN; null leaves them apart). Its fourth, association mining, is not done. `valid` keeps
    only these tags. A tag that a row repeats counts once. `count`, the number of tags a row has, is
    its measure of complexity.

    Source: Lu et al., "#InsTag", 2023 (arXiv 2308.07074); distance and frequency as in MIG (Chen
    et al., 2025, arXiv 2504.13835). Cost: one embedding a tag.
    """

    model: Model | str | None
    device: str
    column: str
    least: int = 2
    rule: bool = True
    merge: float | None = None
    valid: tuple[str, ...] = ()

    name: ClassVar[str] = "tags"
    version: ClassVar[int] = 2
    encoder: ClassVar[bool] = True
    about: ClassVar[Mapping[str, str]] = {
        "sentence": "Labels: the tags that the rows came with, cleaned and merged.",
        "needs": "a column with a list of tags a row, and a sentence encoder",
        "view": "none: it reads columns",
        "cost": "seconds; one embedding a tag",
        "avoid": "when most tags are used once: set merge, or take keywords or clusters",
    }
    fields = ("labels", "count")

    def needs(self) -> frozenset[str]:
        """The column of tags."""
        return frozenset({self.column})

    def identity(self) -> Mapping[str, Any]:
        """The options and the encoder."""
        return {
            "column": self.column,
            "least": self.least,
            "rule": self.rule,
            "merge": self.merge,
            "valid": list(self.valid),
            "encoder": self._encoder.identity(),
        }

    def check(self) -> None:
        """Raise if an option is out of range or the encoder is missing."""
        if self.least < 1 or (self.merge is not None and not 0 < self.merge < 2):
            raise RecipeError("tags needs least >= 1 and merge between 0 and 2, or null")
        self._encoder.check()

    @property
    def warnings(self) -> list[str]:
        """Those of the encoder."""
        return self._encoder.warnings

    def score_pool(self, rows: Rows, *, advance: Advance) -> PoolColumns:
        """The `labels` of each row, in their order, and their `count`."""
        lists = _lists(rows.columns[self.column], self.column)
        if self.rule:
            lists = [[_plain(tag) for tag in row] for row in lists]
        lists = [list(dict.fromkeys(tag for tag in row if tag)) for row in lists]
        if self.valid:
            lists = names.keep(lists, set(self.valid))
        lists = names.keep(lists, names.frequent(lists, self.least))
        if self.merge is not None:
            lists = self._merged(lists, self.merge)
        advance(rows.n)
        found = names.labelled(lists, self._encoder)
        count = np.array([len(row) for row in lists], dtype=np.int64)
        return PoolColumns({**found.columns, "count": count}, found.labels, found.facts)

    def _merged(self, lists: list[list[str]], distance: float) -> list[list[str]]:
        from sklearn.cluster import DBSCAN

        counts = Counter(tag for row in lists for tag in row)
        # The most frequent first: it gives the merged tag its name.
        tags = sorted(counts, key=lambda tag: (-counts[tag], tag))
        if not tags:
            return lists
        vectors, _ = self._encoder.encode(tags)
        group = DBSCAN(eps=distance, min_samples=1, metric="cosine").fit_predict(vectors)
        first = {g: tag for g, tag in reversed(list(zip(group.tolist(), tags, strict=True)))}
        named = {tag: first[g] for g, tag in zip(group.tolist(), tags, strict=True)}
        return [list(dict.fromkeys(named[tag] for tag in row)) for row in lists]

    @cached_property
    def _encoder(self) -> Encoder:
        return Encoder(self.model, self.device, self.name)


def _lists(values: np.ndarray | Ragged, column: str) -> list[list[str]]:
    """The tags of each row; one text a row is a list of one, none is an empty list."""
    if isinstance(values, Ragged):
        flat = [None if v is None else str(v) for v in values.values.tolist()]
        parts = zip(values.indptr[:-1].tolist(), values.indptr[1:].tolist(), strict=True)
        return [[tag for tag in flat[start:end] if tag is not None] for start, end in parts]
    if values.ndim != 1 or values.dtype != object:
        raise DataError(f"tags: the column {column} must hold lists of texts, or a text a row")
    return [[] if value is None else [str(value)] for value in values.tolist()]


def _plain(tag: str) -> str:
    return " ".join(tag.lower().split()).strip(" .,;:!?\"'`#()[]{}")
