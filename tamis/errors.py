"""What goes wrong, in words for people: what was given, what was expected, what to do."""

from __future__ import annotations

import importlib.util


class TamisError(Exception):
    """An error with a one-line message for the user. The command prints it and exits with 1."""


class RecipeError(TamisError):
    """The recipe or the options are wrong; nothing has been computed."""


class DataError(TamisError):
    """The data is not what was expected: a missing column, NaN, a wrong shape, an unusable file."""


class StoreError(TamisError):
    """The store does not hold what was asked for, or what it holds is damaged."""


class MissingPackage(TamisError):
    """An optional package is needed and not installed."""


def require(package: str, extra: str, purpose: str) -> None:
    """Raise `MissingPackage` unless `package` can be imported; imports nothing.

    `extra` is the extra of tamis that carries it, `purpose` says what needs it. Called before any
    work begins.
    """
    if importlib.util.find_spec(package) is None:
        raise MissingPackage(
            f"{purpose} needs the package {package!r}, which is not installed: "
            f"run pip install 'tamis[{extra}]'"
        )
