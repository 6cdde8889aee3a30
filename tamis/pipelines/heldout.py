"""The held-out rows: the same for every method, seed and budget."""

from __future__ import annotations

import hashlib
import math

import numpy as np

from tamis.numerics.allocate import allocate
from tamis.pipelines import licences
from tamis.pipelines.columns import Columns
from tamis.pipelines.refined_rows import FROM
from tamis.recipe import Recipe

LEAST, MOST = 50, 500


def mask(recipe: Recipe, columns: Columns) -> np.ndarray:
    """Mark the rows of the pool that the recipe splits off for evaluation: a boolean (n,)."""
    evaluate = recipe.evaluate
    if evaluate is None or evaluate.path is not None:
        return np.zeros(len(columns.pool), dtype=bool)
    among = licences.allowed(columns, recipe.licences)
    return split(columns, evaluate.holdout_percent, evaluate.group_by, among)


def split(
    columns: Columns, percent: float, group_by: str, among: np.ndarray | None = None
) -> np.ndarray:
    """Mark the rows of the pool that are kept for evaluation: a boolean (n,).

    Only rows marked in `among` (n,) are taken, as if there were no others; all if None. The share
    is bounded by 50 and 500 rows and by half of them, spread over the groups in proportion. Which
    rows of a group depends on a hash of their content alone, so exact duplicates go together and
    new rows move few of the old ones.
    """
    rows = np.arange(len(columns.pool)) if among is None else np.flatnonzero(among)
    n = len(rows)
    wanted = min(max(math.ceil(n * percent / 100), LEAST), MOST, n // 2)
    keys = _first_keys(columns)[rows]
    content, first, copies = np.unique(keys, return_index=True, return_inverse=True)
    groups = columns.values(group_by)[rows[first]].astype(str)
    names, group = np.unique(groups, return_inverse=True)
    shares = allocate(np.bincount(group, minlength=len(names)), min(wanted, len(content)))
    turn = np.array([_hash(key) for key in content], dtype=object)
    order = np.lexsort((turn, group))
    starts = np.searchsorted(group[order], np.arange(len(names)))
    place = np.arange(len(order)) - starts[group[order]]
    chosen = np.zeros(len(content), dtype=bool)
    chosen[order[place < shares[group[order]]]] = True
    mask = np.zeros(len(columns.pool), dtype=bool)
    mask[rows] = chosen[copies]
    return mask


def _first_keys(columns: Columns) -> np.ndarray:
    """The content of each row (n,) as it was ingested: refining moves no row in or out."""
    keys: np.ndarray = columns.values("content_key")
    if FROM not in columns.pool.columns():
        return keys
    before = columns.values(FROM)
    return np.where(before == None, keys, before)  # noqa: E711 - element by element


def _hash(key: str) -> str:
    return hashlib.blake2b(f"heldout\0{key}".encode(), digest_size=16).hexdigest()
