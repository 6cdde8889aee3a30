"""The refiners by name, and how to build one from a recipe."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from tamis.errors import RecipeError
from tamis.recipe import Model
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
    hints = get_type_hints(kind)
    known = [f.name for f in dataclasses.fields(kind) if f.name not in _GIVEN]
    checked = {}
    for option, value in options.items():
        if option not in known:
            raise RecipeError(f"{method} has no option {option!r}; there are {', '.join(known)}")
        try:
            given = tuple(value) if isinstance(value, list) else value
            checked[option] = TypeAdapter(hints[option]).validate_python(given, strict=True)
        except ValidationError as error:
            expected = error.errors()[0]["msg"]
            raise RecipeError(f"{method}: {option}={value!r}: {expected}") from error
    refiner: Refiner = kind(model=model, judge=judge, device=device, **checked)
    refiner.check()
    return refiner
