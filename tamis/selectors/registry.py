"""The methods there are: found by name, built from options, described in plain words."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

from tamis.errors import RecipeError
from tamis.registry import find, nearest
from tamis.selectors.base import Selector

# name -> module and class; imported when asked for.
_BUILT_IN = {
    "random": ("tamis.selectors.random", "Random"),
    "stratified": ("tamis.selectors.stratified", "Stratified"),
    "top": ("tamis.selectors.top", "Top"),
    "ids": ("tamis.selectors.ids", "Ids"),
    "deita": ("tamis.selectors.deita", "Deita"),
    "kmeans": ("tamis.selectors.kmeans", "KMeans"),
    "kmeans_rounds": ("tamis.selectors.kmeans_rounds", "KMeansRounds"),
    "quota": ("tamis.selectors.quota", "Quota"),
    "k_center": ("tamis.selectors.k_center", "KCenter"),
    "facility_location": ("tamis.selectors.facility_location", "FacilityLocation"),
    "cdas": ("tamis.selectors.cdas", "Cdas"),
    "semdedup": ("tamis.selectors.semdedup", "SemDeDup"),
    "instag_diversity": ("tamis.selectors.instag_diversity", "InsTagDiversity"),
    "mig": ("tamis.selectors.mig", "Mig"),
    "dealrec": ("tamis.selectors.dealrec", "DealRec"),
    "goracs": ("tamis.selectors.goracs", "Goracs"),
    "gotd": ("tamis.selectors.gotd", "GotD"),
    "adapt_inf": ("tamis.selectors.adapt_inf", "AdaptInf"),
    "less": ("tamis.selectors.less", "Less"),
}


def names() -> list[str]:
    """Every method, in a fixed order."""
    return list(_BUILT_IN)


def classes() -> dict[str, str]:
    """Class name -> method name."""
    return {cls: name for name, (_, cls) in _BUILT_IN.items()}


def get(name: str) -> type[Selector]:
    """The class of a method. Raises `RecipeError` with the nearest name."""
    found: type[Selector] = find(_BUILT_IN, name, "selection method")
    return found


def build(name: str, options: Mapping[str, Any] | None = None) -> Selector:
    """A method with its options, names and types checked. Lists become tuples."""
    built: Selector = configure(get(name), name, options)
    return built


def configure(cls: Any, name: str, options: Mapping[str, Any] | None = None) -> Any:
    """An instance of the dataclass of a method from its options, names and types checked."""
    fields = {f.name: f for f in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    given = dict(options or {})
    for option in given:
        if option not in fields:
            raise RecipeError(f"{name} has no option {option!r}{nearest(option, list(fields))}")
    required = [
        f.name
        for f in fields.values()
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    absent = [option for option in required if option not in given]
    if absent:
        raise RecipeError(f"{name} needs the option {absent[0]}")
    typed = {o: _typed(value, hints[o], f"{name}.{o}") for o, value in given.items()}
    return cls(**typed)


def describe(name: str) -> dict[str, str]:
    """A plain sentence, what the method needs, its cost per 100k rows, when not to use it."""
    return dataclasses.asdict(get(name).about)


def _typed(value: Any, hint: Any, where: str) -> Any:
    """`value` in the type of the option, or `RecipeError` saying what was expected."""
    for kind in _alternatives(hint):
        ok, converted = _matches(value, kind)
        if ok:
            return converted
    expected = " or ".join(_words(kind) for kind in _alternatives(hint))
    raise RecipeError(f"{where} must be {expected}, got {value!r}")


def _alternatives(hint: Any) -> tuple[Any, ...]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return typing.get_args(hint)
    return (hint,)


def _matches(value: Any, kind: Any) -> tuple[bool, Any]:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is type(None):
        return value is None, None
    if origin is Literal:
        return any(value == a and type(value) is type(a) for a in args), value
    if origin is tuple:
        return _sequence(value, args[0])
    if origin is not None and issubclass(origin, Mapping):
        return _mapping(value, args[1])
    if kind is Any:
        return True, value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return True, float(value)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool)), value


def _sequence(value: Any, kind: Any) -> tuple[bool, Any]:
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)):
        return False, None
    pairs = [_matches(item, kind) for item in items]
    return all(ok for ok, _ in pairs), tuple(item for _, item in pairs)


def _mapping(value: Any, kind: Any) -> tuple[bool, Any]:
    if not isinstance(value, Mapping):
        return False, None
    pairs = {str(key): _matches(item, kind) for key, item in value.items()}
    return all(ok for ok, _ in pairs.values()), {key: item for key, (_, item) in pairs.items()}


def _words(kind: Any) -> str:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return " or ".join(repr(a) for a in args)
    if origin is tuple:
        return f"a list of {_words(args[0])}"
    if origin is not None:
        return f"a mapping to {_words(args[1])}"
    plain = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    return plain.get(kind, "nothing" if kind is type(None) else str(kind))
