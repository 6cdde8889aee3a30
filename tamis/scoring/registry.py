"""The scorers by name: what there is, and how to build one from a recipe."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeGuard

from tamis.errors import RecipeError
from tamis.recipe import Model
from tamis.registry import find
from tamis.registry import options as checked
from tamis.scoring.base import PoolScorer, Scorer
from tamis.scoring.group import Group, group

__all__ = ["Group", "build", "describe", "group", "names"]

# name -> module and class; imported when asked for.
_SCORERS = {
    "embed": ("tamis.scoring.embed", "Embed"),
    "length": ("tamis.scoring.length", "Length"),
    "tokens": ("tamis.scoring.tokens", "Tokens"),
    "nll": ("tamis.scoring.nll", "Nll"),
    "perplexity": ("tamis.scoring.perplexity", "Perplexity"),
    "ifd": ("tamis.scoring.ifd", "Ifd"),
    "entropy": ("tamis.scoring.entropy", "Entropy"),
    "el2n": ("tamis.scoring.el2n", "El2n"),
    "token_scores": ("tamis.scoring.token_scores", "TokenScores"),
    "hidden": ("tamis.scoring.hidden", "Hidden"),
    "gradient": ("tamis.scoring.gradient", "Gradient"),
    "influence": ("tamis.scoring.influence", "Influence"),
    "tags": ("tamis.scoring.labels.tags", "Tags"),
    "annotations": ("tamis.scoring.labels.annotations", "Annotations"),
    "metadata": ("tamis.scoring.labels.metadata", "Metadata"),
    "clusters": ("tamis.scoring.labels.clusters", "Clusters"),
    "taxonomy": ("tamis.scoring.labels.taxonomy", "Taxonomy"),
    "abilities": ("tamis.scoring.labels.abilities", "Abilities"),
    "keywords": ("tamis.scoring.labels.keywords", "Keywords"),
    "evol": ("tamis.scoring.evol", "Evol"),
    "judge": ("tamis.scoring.judge", "Judge"),
    "llm_tags": ("tamis.scoring.labels.llm_tags", "LlmTags"),
    "middo": ("tamis.scoring.middo.signs", "Middo"),
    "middo_quality": ("tamis.scoring.middo.quality", "MiddoQuality"),
    "clear": ("tamis.scoring.clear.scorer", "Clear"),
    "clear_filter": ("tamis.scoring.clear.keep", "ClearFilter"),
    "rank": ("tamis.scoring.transforms.rank", "Rank"),
    "robust_z": ("tamis.scoring.transforms.robust_z", "RobustZ"),
    "combine": ("tamis.scoring.transforms.combine", "Combine"),
    "deconfound": ("tamis.scoring.transforms.deconfound", "Deconfound"),
    "duplicates_exact": ("tamis.scoring.duplicates.exact", "DuplicatesExact"),
    "duplicates_minhash": ("tamis.scoring.duplicates.minhash", "DuplicatesMinhash"),
    "duplicates_semantic": ("tamis.scoring.duplicates.semantic", "DuplicatesSemantic"),
    "neighbours": ("tamis.scoring.neighbours", "Neighbours"),
    "contamination": ("tamis.scoring.contamination.ngrams", "Contamination"),
    "contamination_semantic": ("tamis.scoring.contamination.semantic", "ContaminationSemantic"),
    "heuristics": ("tamis.scoring.text.heuristics", "Heuristics"),
    "pii": ("tamis.scoring.text.pii", "Pii"),
    "lang": ("tamis.scoring.text.lang", "Lang"),
}
# Fields of a scorer that are not options of the recipe.
GIVEN = ("model", "device")


def names() -> list[str]:
    """Every scorer."""
    return list(_SCORERS)


def describe(name: str) -> dict[str, str]:
    """What `tamis methods` shows: sentence, needs, view, cost (per 100k rows), avoid (when
    not to)."""
    return dict(_kind(name).about)


def takes_encoder(name: str) -> bool:
    """Whether its model is a sentence encoder, which may be a folder or hub id, or left out."""
    return getattr(_kind(name), "encoder", False)


def of_the_pool(scorer: Scorer) -> TypeGuard[PoolScorer]:
    """Whether it needs all rows at once."""
    return hasattr(scorer, "score_pool")


def build(
    scorer: str, *, model: Model | str | None, options: Mapping[str, Any], device: str
) -> Scorer:
    """A scorer from its name, model and options; checked, but with nothing heavy loaded.

    `model` may be text (a folder or hub id) for encoders only. Raises `RecipeError` for unknown
    names, options and values and for models that are not there, `MissingPackage` for packages.
    """
    kind = _kind(scorer)
    fields = {f.name for f in dataclasses.fields(kind)}
    arguments: dict[str, Any] = checked(kind, options, leave=GIVEN)
    if "model" in fields:
        if not takes_encoder(scorer) and not isinstance(model, Model):
            given = "none is named" if model is None else f"{model!r} is no entry of models"
            raise RecipeError(f"{scorer} needs a model, an entry of models: {given}")
        arguments |= {"model": model, "device": device}
    elif model is not None:
        raise RecipeError(f"{scorer} takes no model: leave it out")
    built: Scorer = kind(**arguments)
    built.check()
    return built


def _kind(name: str) -> Any:
    return find(_SCORERS, name, "scorer")
