"""Rows in the annotation format of MIG: InsTag tags and the DEITA scores of each turn."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np
import orjson

from tamis.recipe import Model
from tamis.samples import EXTRA
from tamis.scoring.base import Advance, PoolColumns, Rows
from tamis.scoring.encoder import Encoder
from tamis.scoring.labels import names


@dataclass(frozen=True)
class Annotations:
    """What rows in MIG's annotation format came with: `labels`, the tags, and `score`.

    Reads the object `field` of each row (see `read`). A row without an annotation has neither, so
    `mig` with this score does not see it, as in the authors' code. Each tag has the embedding of
    its bare text. Tags are taken as they stand; `tags` cleans them.

    Source: Chen et al., "MIG", 2025 (arXiv 2504.13835). Cost: one embedding a tag.
    """

    model: Model | str | None
    device: str
    field: str = "annotation"
    valid: tuple[str, ...] = ()

    name: ClassVar[str] = "annotations"
    version: ClassVar[int] = 1
    encoder: ClassVar[bool] = True
    about: ClassVar[Mapping[str, str]] = {
        "sentence": "Labels and scores: rows that come annotated as MIG publishes them.",
        "needs": "rows with the objects annotation.instag and annotation.deita",
        "view": "none: it reads columns",
        "cost": "seconds; one embedding a tag",
        "avoid": "for other formats: tags reads any list",
    }
    fields = ("labels", "score", "reason")

    def needs(self) -> frozenset[str]:
        """What of the rows was no single value."""
        return frozenset({EXTRA})

    def identity(self) -> Mapping[str, Any]:
        """The options and the encoder."""
        return {
            "field": self.field,
            "valid": list(self.valid),
            "encoder": self._encoder.identity(),
        }

    def check(self) -> None:
        """Raise if the encoder is missing."""
        self._encoder.check()

    @property
    def warnings(self) -> list[str]:
        """Those of the encoder."""
        return self._encoder.warnings

    def score_pool(self, rows: Rows, *, advance: Advance) -> PoolColumns:
        """`labels` in the order given, `score`, and `reason` where a row has neither."""
        valid = set(self.valid) or None
        texts = np.asarray(rows.columns[EXTRA]).tolist()
        objects = [{} if text is None else orjson.loads(text) for text in texts]
        found = [read(value.get(self.field), valid) for value in objects]
        advance(rows.n)
        labelled = names.labelled([a.tags or [] for a in found], self._encoder)
        columns = {
            "labels": labelled.columns["labels"],
            "score": np.array([a.score for a in found]),
            "reason": np.array([a.reason or None for a in found], dtype=object),
        }
        return PoolColumns(columns, labelled.labels, labelled.facts)

    @cached_property
    def _encoder(self) -> Encoder:
        return Encoder(self.model, self.device, self.name)


class Annotation(NamedTuple):
    """The tags and the score of a row; without an annotation None, NaN and the `reason`."""

    tags: list[str] | None
    score: float
    reason: str


def read(annotation: Any, valid: Collection[str] | None = None) -> Annotation:
    """The tags `instag.content` and the score of the `deita` lists of one row's annotation.

    The score is the mean over turns of `quality_scores` x `complexity_scores`. Tags keep their
    order, those outside `valid` are left out; a row may be left with none. Without an annotation,
    with an empty `instag` or `deita` object, or without scores that can be multiplied turn by turn
    the row has neither tags nor score, and a reason says why. Give `valid` as a set.

    Source: Chen et al., "MIG", 2025 (arXiv 2504.13835), the rows its code reads. Differs from it:
    empty lists of scores are a reason, where it divides by zero.
    """
    if not isinstance(annotation, Mapping) or not annotation:
        return _without("no_annotation")
    tagged, scored = annotation.get("instag"), annotation.get("deita")
    if not isinstance(tagged, Mapping) or not tagged:
        return _without("no_tags")
    if not isinstance(scored, Mapping) or not scored:
        return _without("no_scores")
    tags = tagged.get("content")
    if not _is_list(tags) or not all(isinstance(tag, str) for tag in tags):
        return _without("no_tags")
    quality, complexity = scored.get("quality_scores"), scored.get("complexity_scores")
    if not _is_list(quality) or not _is_list(complexity) or not quality or not complexity:
        return _without("no_scores")
    if len(quality) != len(complexity):
        return _without("turns_differ")
    if not all(_is_number(value) for value in (*quality, *complexity)):
        return _without("bad_score")
    products = [q * c for q, c in zip(quality, complexity, strict=True)]
    kept = [tag for tag in tags if valid is None or tag in valid]
    return Annotation(kept, sum(products) / len(products), "")


def _without(reason: str) -> Annotation:
    return Annotation(None, math.nan, reason)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
