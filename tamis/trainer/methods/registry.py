"""The tuning methods there are: found by name, built from options, described in plain words."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from typing import Any

from tamis.errors import RecipeError
from tamis.recipe import Tune
from tamis.registry import nearest
from tamis.registry import options as checked
from tamis.trainer.methods.base import Method

# name -> module and class; imported when asked for.
_BUILT_IN = {
    "lora": ("tamis.trainer.methods.lora", "Lora"),
    "full": ("tamis.trainer.methods.full", "Full"),
    "adalora": ("tamis.trainer.methods.adalora", "AdaLora"),
    "ia3": ("tamis.trainer.methods.ia3", "Ia3"),
    "vera": ("tamis.trainer.methods.vera", "Vera"),
    "shira": ("tamis.trainer.methods.shira", "Shira"),
    "prompt": ("tamis.trainer.methods.prompts", "Prompt"),
    "prefix": ("tamis.trainer.methods.prompts", "Prefix"),
    "p_tuning": ("tamis.trainer.methods.prompts", "PTuning"),
    "cpt": ("tamis.trainer.methods.cpt", "Cpt"),
    "trainable_tokens": ("tamis.trainer.methods.trainable_tokens", "TrainableTokens"),
    "lisa": ("tamis.trainer.methods.lisa", "Lisa"),
    "hft": ("tamis.trainer.methods.hft", "Hft"),
    "freeze_bottom": ("tamis.trainer.methods.freeze_bottom", "FreezeBottom"),
    "lift": ("tamis.trainer.methods.lift", "Lift"),
    "s2ft": ("tamis.trainer.methods.s2ft", "S2ft"),
    "neuroada": ("tamis.trainer.methods.neuroada", "NeuroAda"),
    "spiel": ("tamis.trainer.methods.spiel", "Spiel"),
    "lora_sb": ("tamis.trainer.methods.lora_sb", "LoraSb"),
    "lora_xs": ("tamis.trainer.methods.lora_sb", "LoraXs"),
    "mezo": ("tamis.trainer.methods.mezo", "Mezo"),
}


def names() -> list[str]:
    """Every method, in a fixed order."""
    return list(_BUILT_IN)


def get(name: str) -> type[Method]:
    """The class of a method. Raises `RecipeError` with the nearest name."""
    if name not in _BUILT_IN:
        raise RecipeError(f"there is no tuning method {name!r}{nearest(name, names())}")
    module, cls = _BUILT_IN[name]
    found: type[Method] = getattr(importlib.import_module(module), cls)
    return found


def build(name: str, options: Mapping[str, Any] | None = None) -> Method:
    """A method with its options, names and types and fit checked. Lists become tuples."""
    kind: Any = get(name)
    given = checked(kind, options or {})
    for field in dataclasses.fields(kind):
        if field.name not in given and field.default is dataclasses.MISSING:
            raise RecipeError(f"{name} needs the option {field.name}")
    method: Method = kind(**given)
    method.check()
    return method


def of(options: Tune) -> Method:
    """The method of a tune block. Raises `RecipeError` where it cannot train as the block says."""
    method = build(options.method, options.options)
    if not method.packable and options.packing != "none":
        raise RecipeError(
            f"{method.name} puts trained tokens before a row, which packed rows would share: "
            "set packing: none"
        )
    return method


def learning_rate(options: Tune) -> float:
    """The learning rate of the options, or the method's default."""
    return options.learning_rate or build(options.method, options.options).learning_rate


def describe(name: str) -> dict[str, Any]:
    """What the method does, what it leaves, its default rate, whether rows may be packed."""
    kind = get(name)
    return {
        **dataclasses.asdict(kind.about),
        "leaves": kind.kind,
        "learning_rate": build(name, kind.example).learning_rate,
        "packable": kind.packable,
        "source": kind.source,
    }
