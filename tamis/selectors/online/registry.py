"""The rules that pick rows of a batch: found by name, built from options, described."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from tamis.registry import find
from tamis.selectors.online.base import BatchPicker
from tamis.selectors.registry import configure

# name -> module and class; imported when asked for.
_BUILT_IN = {
    "random": ("tamis.selectors.online.baselines", "Random"),
    "max_loss": ("tamis.selectors.online.baselines", "MaxLoss"),
    "max_gradnorm": ("tamis.selectors.online.baselines", "MaxGradNorm"),
    "rho_loss": ("tamis.selectors.online.baselines", "RhoLoss"),
    "greats": ("tamis.selectors.online.greats", "Greats"),
    "kmeans": ("tamis.selectors.online.kmeans", "KMeans"),
    "uds": ("tamis.selectors.online.uds", "Uds"),
    "bds": ("tamis.selectors.online.bds", "Bds"),
}


def names() -> list[str]:
    """Every rule, in a fixed order."""
    return list(_BUILT_IN)


def get(name: str) -> type[BatchPicker]:
    """The class of a rule. Raises `RecipeError` with the nearest name."""
    found: type[BatchPicker] = find(_BUILT_IN, name, "online method")
    return found


def build(name: str, options: Mapping[str, Any] | None = None) -> BatchPicker:
    """A rule with its options, names and types checked; `start` it before its first batch."""
    built: BatchPicker = configure(get(name), name, options)
    return built


def describe(name: str) -> dict[str, str]:
    """A plain sentence, what the rule needs, its cost per batch, when not to use it."""
    return dataclasses.asdict(get(name).about)
