"""Rows in the annotation format of MIG: InsTag tags and the DEITA scores of each turn."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple


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
