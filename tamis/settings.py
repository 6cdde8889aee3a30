"""The settings of a command line (`--set a.b=value`) laid over what a recipe holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from tamis.errors import RecipeError


def changed(content: Mapping[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """A copy of `content` with each `a.b=value` in its place. A value is YAML, and null takes out
    what stands there; a number is a position in a list. Raises `RecipeError`."""
    copy = dict(content)
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or not name:
            raise RecipeError(f"--set {setting!r}: expected a.b=value")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise RecipeError(f"--set {setting!r}: the value is not valid YAML") from error
        copy = _replaced(copy, name.split("."), value, setting)
    return copy


def _replaced(content: Any, path: Sequence[str], value: Any, setting: str) -> Any:
    """A copy of `content` with the value at `path` replaced, or removed when it is null."""
    head, rest = path[0], path[1:]
    if isinstance(content, list):
        if not head.isdigit() or int(head) >= len(content):
            raise RecipeError(
                f"--set {setting!r}: {head!r} is not a position in a list of {len(content)}"
            )
        copy = list(content)
        copy[int(head)] = _replaced(copy[int(head)], rest, value, setting) if rest else value
        return copy
    mapping = dict(content or {}) if isinstance(content, dict) or content is None else None
    if mapping is None:
        raise RecipeError(f"--set {setting!r}: nothing can be set below {head!r}")
    if rest:
        mapping[head] = _replaced(mapping.get(head), rest, value, setting)
    elif value is None:
        mapping.pop(head, None)
    else:
        mapping[head] = value
    return mapping
