"""The refiners by name, and how to build one from a recipe."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from tamis.recipe import Model
from tamis.recipe import options as options_of
from tamis.refiners.base import Refiner

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
    module, name = _REFINERS[method]
    kind: Any = getattr(importlib.import_module(module), name)
    checked = options_of(kind, options, leave=_GIVEN)
    refiner: Refiner = kind(model=model, judge=judge, device=device, **checked)
    refiner.check()
    return refiner
