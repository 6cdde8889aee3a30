"""Columns out of a pool, checked once and in one numeric form for every method."""

from __future__ import annotations

import difflib
import operator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tamis.errors import DataError
from tamis.numerics.ragged import Ragged
from tamis.selectors.base import Array, Pool


def budget(k: int, n: int) -> int:
    """`k` as a number of rows between 0 and `n`. Raises for negative and fractional budgets."""
    try:
        rows = operator.index(k)
    except TypeError as error:
        raise DataError(f"a budget must be a whole number of rows, got {k!r}") from error
    if rows < 0:
        raise DataError(f"a budget must be 0 rows or more, got {rows}")
    return min(rows, n)


def column(pool: Pool, name: str) -> Array | Ragged:
    """A column of the pool with one entry a row."""
    if name not in pool.columns:
        near = difflib.get_close_matches(name, list(pool.columns), 1)
        have = ", ".join(sorted(pool.columns)) or "none"
        hint = f"did you mean {near[0]}?" if near else f"it has: {have}"
        raise DataError(f"the pool has no column {name!r}; {hint}")
    found = pool.columns[name]
    if len(found) != pool.n:
        raise DataError(f"column {name} has {len(found)} rows and the pool has {pool.n}")
    return found


def numbers(pool: Pool, name: str, *, missing: bool = False) -> NDArray[np.float64]:
    """One float64 a row. Raises for NaN (unless `missing`), infinities and other shapes."""
    found = column(pool, name)
    if isinstance(found, Ragged) or found.ndim != 1:
        raise DataError(f"column {name} must hold one number a row, got {_shape(found)}")
    values = _float64(found, name)
    _finite(values, name, missing)
    return values


def matrix(pool: Pool, name: str, *, missing: bool = False) -> NDArray[np.float32]:
    """One vector a row as float32 (n, d), size-1 axes in between squeezed; no copy if it is that.

    Every precision is brought to float32 first, so that it cannot change the picks. Raises for
    NaN and infinities unless `missing`.
    """
    found = column(pool, name)
    if isinstance(found, Ragged):
        # Vectors that came with the rows are lists.
        widths = np.diff(found.indptr)
        if len(widths) == 0 or (widths != widths[0]).any():
            raise DataError(f"column {name} must hold vectors of one length, got {_shape(found)}")
        found = found.values.reshape(len(widths), -1)
    if found.dtype == object and len(found):
        found = _stacked(found, name)
    if found.ndim > 2 and all(size == 1 for size in found.shape[1:-1]):
        found = found.reshape(found.shape[0], found.shape[-1])
    if found.ndim != 2 and not (len(found) == 0):
        raise DataError(f"column {name} must hold vectors, shape (n, d), got {_shape(found)}")
    if found.dtype.kind not in "fiub" and len(found):
        raise DataError(f"column {name} must hold numbers, got {found.dtype}")
    if found.ndim != 2:
        return np.zeros((0, 1), dtype=np.float32)
    with np.errstate(over="ignore"):
        vectors = np.ascontiguousarray(found, dtype=np.float32)
    if not missing:
        bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(bad):
            raise DataError(
                f"column {name} has NaN or infinity in {len(bad)} of {pool.n} rows, "
                f"first row {bad[0]}: drop them or compute them again"
            )
    return vectors


def ragged(pool: Pool, name: str, *, missing: bool = False) -> Ragged:
    """Numbers of the turns of each row: float64 values. One number a row counts as one turn."""
    found = column(pool, name)
    if isinstance(found, Ragged):
        result = Ragged(found.indptr.astype(np.int64), _float64(found.values, name))
        if result.indptr[0] != 0 or (np.diff(result.indptr) < 0).any():
            raise DataError(f"column {name}: indptr must start at 0 and never fall")
        if result.indptr[-1] != len(result.values):
            raise DataError(
                f"column {name}: indptr ends at {result.indptr[-1]}, "
                f"but there are {len(result.values)} values"
            )
    elif found.ndim == 2:
        indptr = np.arange(len(found) + 1, dtype=np.int64) * found.shape[1]
        result = Ragged(indptr, _float64(found.ravel(), name))
    elif found.ndim == 1 and found.dtype == object and any(_is_list(v) for v in found):
        lists = [list(v) if _is_list(v) else [np.nan if v is None else v] for v in found]
        indptr = np.concatenate([[0], np.cumsum([len(v) for v in lists])]).astype(np.int64)
        flat = [value for row in lists for value in row]
        result = Ragged(indptr, _float64(np.asarray(flat, dtype=object), name))
    elif found.ndim == 1:
        result = Ragged(np.arange(len(found) + 1, dtype=np.int64), _float64(found, name))
    else:
        raise DataError(f"column {name} must hold numbers a turn, got {_shape(found)}")
    _finite(result.values, name, missing)
    return result


def texts(pool: Pool, name: str) -> list[str]:
    """One text a row: groups, ids. Numbers are written out; None is refused."""
    found = column(pool, name)
    if isinstance(found, Ragged) or found.ndim != 1:
        raise DataError(f"column {name} must hold one value a row, got {_shape(found)}")
    values = found.tolist()
    absent = [i for i, value in enumerate(values) if value is None or value != value]
    if absent:
        raise DataError(
            f"column {name} has no value in {len(absent)} of {len(values)} rows, "
            f"first row {absent[0]}: drop them or fill them in"
        )
    return [str(value) for value in values]


def labels(pool: Pool, name: str) -> tuple[Ragged, list[str]]:
    """The labels of each row as numbers (int64, in the order given) and their sorted names.

    Takes lists of texts a row, one text a row (a single label), or `Ragged`. None is no label.
    """
    found = column(pool, name)
    if isinstance(found, Ragged) and found.values.dtype.kind in "iu":
        used, values = np.unique(found.values, return_inverse=True)
        names = [str(label) for label in used.tolist()]
        return Ragged(found.indptr.astype(np.int64), values.astype(np.int64)), names
    if isinstance(found, Ragged):
        flat, indptr = found.values.tolist(), found.indptr.astype(np.int64)
    else:
        rows = [_listed(value) for value in found.tolist()]
        flat = [label for row in rows for label in row]
        indptr = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    # Numbers sort as numbers, texts by code point.
    kinds = sorted(set(flat), key=lambda v: (isinstance(v, str), v))
    number = {label: place for place, label in enumerate(kinds)}
    numbers = np.array([number[label] for label in flat], dtype=np.int64)
    return Ragged(indptr, numbers), [str(label) for label in kinds]


def reasons(n: int, other: str, index: NDArray[np.int64]) -> Array:
    """The reason column: "selected" for the picks, `other` for everything else."""
    reason = np.full(n, other, dtype=object)
    reason[index] = "selected"
    return reason


def _float64(values: Array, name: str) -> NDArray[np.float64]:
    if values.dtype == object:
        values = np.asarray([np.nan if v is None else v for v in values.tolist()])
    if values.dtype.kind not in "fiub" and values.size:
        raise DataError(f"column {name} must hold numbers, got {values.dtype}")
    return values.astype(np.float64)


def _stacked(values: Array, name: str) -> Array:
    try:
        return np.asarray([np.asarray(v, dtype=np.float64) for v in values.tolist()])
    except (TypeError, ValueError) as error:
        raise DataError(f"column {name} must hold vectors of one length") from error


def _finite(values: NDArray[np.float64], name: str, missing: bool) -> None:
    bad = np.isinf(values) if missing else ~np.isfinite(values)
    if bad.any():
        what = "infinity" if missing else "NaN or infinity"
        raise DataError(
            f"column {name} has {what} in {int(bad.sum())} of {len(bad)} values, "
            f"first at {int(bad.argmax())}: drop these rows or compute them again"
        )


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if _is_list(value) else [value]


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple, np.ndarray))


def _shape(found: Array | Ragged) -> str:
    if isinstance(found, Ragged):
        return "several values a row"
    return f"shape {found.shape} of {found.dtype}"
