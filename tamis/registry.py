"""What is found by its name and built from the options of a recipe."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
from collections.abc import Mapping, Sequence
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from tamis.errors import RecipeError


def find(kinds: Mapping[str, tuple[str, str]], name: str, what: str) -> Any:
    """The class called `name`, from a table of modules and classes; imports that module alone.

    Raises `RecipeError` with the nearest name; `what` says there what is looked for.
    """
    if name not in kinds:
        raise RecipeError(f"there is no {what} {name!r}{nearest(name, list(kinds))}")
    module, kind = kinds[name]
    return getattr(importlib.import_module(module), kind)


def options(kind: type, given: Mapping[str, Any], *, leave: Sequence[str] = ()) -> dict[str, Any]:
    """Options for a dataclass, checked against the names and types of its fields but `leave`.

    Raises `RecipeError` naming the nearest option, or what was expected of the value.
    """
    hints = get_type_hints(kind)
    known = [f.name for f in dataclasses.fields(kind) if f.name not in leave]
    name = getattr(kind, "name", kind.__name__)
    checked = {}
    for option, value in given.items():
        if option not in known:
            raise RecipeError(f"{name} has no option {option!r}{nearest(option, known)}")
        try:
            # Lists in YAML are tuples here: options never change.
            one = tuple(value) if isinstance(value, list) else value
            checked[option] = TypeAdapter(hints[option]).validate_python(one, strict=True)
        except ValidationError as error:
            expected = error.errors()[0]["msg"]
            raise RecipeError(f"{name}: {option}={value!r}: {expected}") from error
    return checked


def nearest(name: str, known: Sequence[str]) -> str:
    """The end of an error about a name that does not exist: the nearest, or all there are."""
    near = difflib.get_close_matches(name, known, 1)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; there are: {', '.join(known)}" if known else "; it has no options"
