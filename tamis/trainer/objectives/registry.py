"""The objectives there are: found by name, built from options, described in plain words."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from typing import Any

from tamis.errors import RecipeError
from tamis.registry import nearest, options
from tamis.trainer.objectives.base import Objective

# name -> module and class; imported when asked for.
_BUILT_IN = {
    "sft": ("tamis.trainer.objectives.sft", "Sft"),
    "sequence_mean": ("tamis.trainer.objectives.sequence_mean", "SequenceMean"),
    "dft": ("tamis.trainer.objectives.dft", "Dft"),
    "asft": ("tamis.trainer.objectives.asft", "Asft"),
    "masked_thought": ("tamis.trainer.objectives.masked_thought", "MaskedThought"),
    "noisefit": ("tamis.trainer.objectives.noisefit", "NoiseFit"),
    "taid": ("tamis.trainer.objectives.taid", "Taid"),
    "task_balanced": ("tamis.trainer.objectives.task_balanced", "TaskBalanced"),
}


def names() -> list[str]:
    """Every objective, in a fixed order."""
    return list(_BUILT_IN)


def get(name: str) -> type[Objective]:
    """The class of an objective. Raises `RecipeError` with the nearest name."""
    if name not in _BUILT_IN:
        raise RecipeError(f"there is no objective {name!r}{nearest(name, names())}")
    module, cls = _BUILT_IN[name]
    found: type[Objective] = getattr(importlib.import_module(module), cls)
    return found


def build(name: str, given: Mapping[str, Any] | None = None) -> Objective:
    """An objective with its options, names and types checked."""
    kind = get(name)
    return kind(**options(kind, given or {}))


def describe(name: str) -> dict[str, str]:
    """A plain sentence, what the objective needs, what it costs, when not to use it."""
    return dataclasses.asdict(get(name).about)
