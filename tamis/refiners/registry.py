"""The refiners by name, and how to build one from a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tamis.recipe import Model
from tamis.refiners.base import Refiner
from tamis.registry import find
from tamis.registry import options as checked

_REFINERS = {
    "clear_correct": ("tamis.refiners.clear", "ClearCorrect"),
    "s3ft": ("tamis.refiners.s3ft", "S3ft"),
}
_GIVEN = ("model", "judge", "device")


def build(
    method: str, *, model: Model, judge: Model, options: Mapping[str, Any], device: str
) -> Refiner:
    """A refiner from its name, models and options; checked, with nothing heavy loaded.

    Raises `RecipeError` for unknown options and values and for models that are not there.
    """
    kind = find(_REFINERS, method, "refiner")
    given = checked(kind, options, leave=_GIVEN)
    refiner: Refiner = kind(model=model, judge=judge, device=device, **given)
    refiner.check()
    return refiner
