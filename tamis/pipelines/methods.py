"""What there is to choose from, for `tamis methods`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tamis import selectors
from tamis.errors import RecipeError
from tamis.registry import nearest
from tamis.scoring import registry
from tamis.selectors import online
from tamis.trainer import methods, objectives, optimizers
from tamis.trainer.share import trainable_percent

Kind = tuple[str, Sequence[str], Callable[[str], dict[str, Any]]]


def catalogue(name: str | None = None, *, trainer: bool = False) -> list[dict[str, Any]]:
    """Every scorer, selector and online rule, or with `trainer` every tuning method, objective,
    optimizer and online rule; or all of the given name. Each as `describe` tells of it."""
    data: list[Kind] = [
        ("scorer", registry.names(), registry.describe),
        ("selector", selectors.names(), selectors.describe),
    ]
    tuning: list[Kind] = [
        ("method", methods.names(), _tuning_method),
        ("objective", objectives.names(), objectives.describe),
        ("optimizer", list(optimizers.OPTIMIZERS), optimizers.describe),
    ]
    rules: Kind = ("online", online.names(), online.describe)
    kinds = [*data, *tuning, rules] if name else [*(tuning if trainer else data), rules]
    found = [
        {"kind": kind, "name": n, **describe(n)}
        for kind, names, describe in kinds
        for n in names
        if name is None or n == name
    ]
    if not found:
        known = [n for _, names, _ in kinds for n in names]
        raise RecipeError(f"there is no method {name!r}{nearest(str(name), known)}")
    return found


def _tuning_method(name: str) -> dict[str, Any]:
    return {**methods.describe(name), "trainable": trainable_percent(name)}
