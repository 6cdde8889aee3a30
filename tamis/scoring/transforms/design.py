"""Confounders as the columns of a regression."""

from __future__ import annotations

import datetime
from collections.abc import Mapping

import numpy as np

from tamis.errors import DataError
from tamis.numerics.ragged import Ragged
from tamis.scoring.transforms.columns import finite

# Rarer levels of a category are one level.
LEAST = 5
# More levels than this belong into a group, which needs no column a level.
MOST = 200
OTHER = "other"


def design(
    columns: Mapping[str, np.ndarray | Ragged], n: int, user: str
) -> tuple[np.ndarray, list[str]]:
    """The matrix (n, p) float64 of columns of n rows, and a name for each of its own.

    Numbers stand as they are, no value as the mean with an indicator. Texts are dummies of their
    sorted levels but the first; levels of fewer than 5 rows are `other`. Dates are a trend in days
    and dummies of month and weekday. Raises `DataError` naming a column of another kind, with
    infinite values or with too many levels.
    """
    parts: list[np.ndarray] = []
    labels: list[str] = []
    for name, column in columns.items():
        if isinstance(column, Ragged) or column.ndim != 1:
            raise DataError(f"{user}: {name} holds several values a row; it cannot be adjusted for")
        found = _expanded(column, name, user)
        parts += [values for _, values in found]
        labels += [label for label, _ in found]
    matrix = np.column_stack(parts) if parts else np.zeros((n, 0))
    return matrix.astype(np.float64), labels


def _expanded(column: np.ndarray, name: str, user: str) -> list[tuple[str, np.ndarray]]:
    if column.dtype != object:
        return _number(finite(column.astype(np.float64), name, user), name)
    known = [v for v in column if v is not None]
    if known and all(isinstance(v, datetime.date) for v in known):
        return _date(column, name)
    levels = np.array(["(none)" if v is None else str(v) for v in column], dtype=object)
    return _category(levels, name, user)


def _number(values: np.ndarray, name: str) -> list[tuple[str, np.ndarray]]:
    missing = np.isnan(values)
    if not missing.any() or missing.all():
        # A column without any value says nothing.
        return [] if missing.any() else [(name, values)]
    filled = np.where(missing, values[~missing].mean(), values)
    return [(name, filled), (f"{name} missing", missing.astype(np.float64))]


def _category(levels: np.ndarray, name: str, user: str) -> list[tuple[str, np.ndarray]]:
    names, code, count = np.unique(levels, return_inverse=True, return_counts=True)
    rare = count < LEAST
    kept = [*names[~rare].tolist(), *([OTHER] if rare.any() else [])]
    if len(kept) > MOST:
        raise DataError(
            f"{user}: {name} has {len(kept):,} levels, more than {MOST}; "
            "name it in group, not in by"
        )
    place = np.where(rare, len(kept) - 1, np.cumsum(~rare) - 1)[code]
    return [(f"{name}={kept[k]}", (place == k).astype(np.float64)) for k in range(1, len(kept))]


def _date(column: np.ndarray, name: str) -> list[tuple[str, np.ndarray]]:
    days = np.array([np.nan if v is None else _days(v) for v in column])
    parts = _number(days, name)
    for what, part in (("month", "%m"), ("weekday", "%u")):
        levels = np.array(["" if v is None else v.strftime(part) for v in column], dtype=object)
        parts += _category(levels, f"{name} {what}", "deconfound")
    return parts


def _days(moment: datetime.date) -> float:
    """Days since 2000, so that the numbers are small."""
    if isinstance(moment, datetime.datetime):
        zone = datetime.UTC if moment.tzinfo else None
        return (moment - datetime.datetime(2000, 1, 1, tzinfo=zone)).total_seconds() / 86400
    return float((moment - datetime.date(2000, 1, 1)).days)
