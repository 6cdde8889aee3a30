"""Selection methods: columns in, ordered row indices out. They know arrays, not files.

`build("deita", {"tau": 0.9})` gives a method by name, `from tamis.selectors import Deita`
its class.
"""

from __future__ import annotations

from typing import Any

from tamis.numerics.ragged import Ragged
from tamis.selectors.base import About, Pool, Selection, Selector
from tamis.selectors.registry import build, classes, describe, get, names

__all__ = [
    "About",
    "Pool",
    "Ragged",
    "Selection",
    "Selector",
    "build",
    "describe",
    "get",
    "names",
]


def __getattr__(name: str) -> Any:
    """The class of a method, imported when first used."""
    if name in classes():
        return get(classes()[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
