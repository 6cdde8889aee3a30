"""The scorers by name: what there is, and how to build one from a recipe."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from tamis.errors import RecipeError
from tamis.recipe import Model
from tamis.scoring.base import Scorer
from tamis.scoring.embed import Embed
from tamis.scoring.group import Group, group
from tamis.scoring.ifd import Ifd
from tamis.scoring.length import Length
from tamis.scoring.nll import Nll
from tamis.scoring.perplexity import Perplexity
from tamis.scoring.tokens import Tokens

__all__ = ["Group", "build", "describe", "group", "names"]

_SCORERS = {kind.name: kind for kind in (Embed, Length, Tokens, Nll, Perplexity, Ifd)}
# Fields of a scorer that are not options of the recipe.
_GIVEN = ("model", "device")


def names() -> list[str]:
    """Every scorer."""
    return list(_SCORERS)


def describe(name: str) -> dict[str, str]:
    """What `tamis methods` shows: sentence, needs, cost (per 100k rows), avoid (when not to)."""
    return dict(_kind(name).about)


def build(
    scorer: str, *, model: Model | str | None, options: Mapping[str, Any], device: str
) -> Scorer:
    """A scorer from its name, model and options; checked, but with nothing heavy loaded.

    `model` may be text (a folder or hub id) for encoders only. Raises `RecipeError` for unknown
    names, options and values and for models that are not there, `MissingPackage` for packages.
    """
    kind = _kind(scorer)
    fields = {f.name for f in dataclasses.fields(kind)}
    arguments: dict[str, Any] = _options(kind, options)
    if "model" in fields:
        if kind is not Embed and not isinstance(model, Model):
            given = "none is named" if model is None else f"{model!r} is no entry of models"
            raise RecipeError(f"{scorer} needs a model, an entry of models: {given}")
        arguments |= {"model": model, "device": device}
    elif model is not None:
        raise RecipeError(f"{scorer} takes no model: leave it out")
    built: Scorer = kind(**arguments)
    built.check()
    return built


def _kind(name: str) -> Any:
    if name not in _SCORERS:
        raise RecipeError(f"there is no scorer {name!r}{_nearest(name, names())}")
    return _SCORERS[name]


def _options(kind: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with their values checked against the types of the scorer's fields."""
    hints = get_type_hints(kind)
    known = [f.name for f in dataclasses.fields(kind) if f.name not in _GIVEN]
    checked = {}
    for name, value in options.items():
        if name not in known:
            raise RecipeError(f"{kind.name} has no option {name!r}{_nearest(name, known)}")
        try:
            checked[name] = TypeAdapter(hints[name]).validate_python(value, strict=True)
        except ValidationError as error:
            expected = error.errors()[0]["msg"]
            raise RecipeError(f"{kind.name}: {name}={value!r}: {expected}") from error
    return checked


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; there are {', '.join(known)}" if known else "; it has no options"
