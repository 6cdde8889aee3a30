"""Pairs of like sets: candidates that share a band, and their exact Jaccard similarity."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tamis.numerics.ragged import Ragged

Places = NDArray[np.int64]
F64 = NDArray[np.float64]

# In a bucket each row is paired with the first one and with this many before it. So a bucket of a
# million rows gives 33 million pairs and not 5e11, and small ones give all of theirs.
NEIGHBOURS = 32
# Pairs held before doubles are taken out: 128 MB. Hashes compared at once: 32 MB a side.
_HELD = 16_777_216
_BLOCK = 4_194_304


def candidates(keys: NDArray[np.uint64], rows: Places) -> tuple[Places, Places]:
    """The pairs (lower, higher) of places in `rows` whose `keys` (n, bands) are equal in some band,
    sorted.

    All of them for buckets of up to `NEIGHBOURS` + 1 rows. O(bands x n log n).
    """
    n = len(rows)
    found: list[Places] = []
    held, most = 0, _HELD
    for band in range(keys.shape[1]):
        codes = [low * n + high for low, high in _bucket_pairs(keys[rows, band])]
        found.extend(codes)
        held += sum(map(len, codes))
        if held > most:
            found = [np.unique(np.concatenate(found))]
            held = len(found[0])
            most = max(_HELD, 2 * held)
    codes = np.unique(np.concatenate(found)) if found else np.empty(0, dtype=np.int64)
    low, high = np.divmod(codes, max(1, n))
    return low, high


def _bucket_pairs(key: NDArray[np.uint64]) -> list[tuple[Places, Places]]:
    """The pairs of one band."""
    order = np.argsort(key, kind="stable")
    ordered = key[order]
    same = ordered[1:] == ordered[:-1]
    shared = np.zeros(len(key), dtype=bool)
    shared[1:] |= same
    shared[:-1] |= same
    order, ordered = order[shared], ordered[shared]
    pairs = []
    for step in range(1, min(NEIGHBOURS + 1, len(order))):
        equal = np.flatnonzero(ordered[step:] == ordered[:-step])
        if not len(equal):
            return pairs
        pairs.append((order[equal], order[equal + step]))
    # What is further from the first of its bucket than the neighbours reach.
    new = np.ones(len(order), dtype=bool)
    new[1:] = ordered[1:] != ordered[:-1]
    start = np.maximum.accumulate(np.where(new, np.arange(len(order)), 0))
    far = np.flatnonzero(np.arange(len(order)) - start > NEIGHBOURS)
    pairs.append((order[start[far]], order[far]))
    return pairs


def jaccard(sets: Ragged, first: Places, second: Places) -> F64:
    """|A & B| / |A | B| of pairs of rows of `sets`, as sets; 0 for two empty ones.

    O(hashes of the rows and of the pairs), in blocks.
    """
    from scipy.sparse import csr_matrix

    # A hash is its own column; 63 bits of it tell as much.
    column = (sets.values >> np.uint64(1)).astype(np.int64)
    ones = np.ones(len(column), dtype=np.int8)
    shape = (len(sets), np.iinfo(np.int64).max)
    member = csr_matrix((ones, column, sets.indptr), shape=shape)
    member.sum_duplicates()
    member.data[:] = 1
    sizes = np.diff(member.indptr)
    weight = np.cumsum(sizes[first] + sizes[second])
    cuts = np.flatnonzero(np.diff(weight // _BLOCK)) + 1
    shared = [
        np.diff(member[a].multiply(member[b]).tocsr().indptr)
        for a, b in zip(np.split(first, cuts), np.split(second, cuts), strict=True)
        if len(a)
    ]
    both = np.concatenate([np.zeros(0, dtype=np.int64), *shared])
    result: F64 = both / np.maximum(sizes[first] + sizes[second] - both, 1)
    return result
