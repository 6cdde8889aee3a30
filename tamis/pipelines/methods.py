"""What there is to choose from, for `tamis methods`."""

from __future__ import annotations

import difflib
from typing import Any

from tamis import selectors
from tamis.errors import RecipeError
from tamis.scoring import registry
from tamis.selectors import online


def catalogue(name: str | None = None) -> list[dict[str, Any]]:
    """Every scorer, selector and online rule, or those of this name, as `describe` tells of it."""
    found = [
        {"kind": kind, "name": n, **describe(n)}
        for kind, names, describe in (
            ("scorer", registry.names(), registry.describe),
            ("selector", selectors.names(), selectors.describe),
            ("online", online.names(), online.describe),
        )
        for n in names
        if name is None or n == name
    ]
    if not found:
        known = [*registry.names(), *selectors.names(), *online.names()]
        near = difflib.get_close_matches(str(name), known, 1)
        hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}"
        raise RecipeError(f"there is no method {name!r}{hint}")
    return found
