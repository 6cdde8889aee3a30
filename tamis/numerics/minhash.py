"""MinHash signatures of hashed sets, and the bands that make pairs of like sets meet."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from tamis.errors import RecipeError
from tamis.numerics.ragged import Ragged

U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]
F64 = NDArray[np.float64]
Rows = NDArray[np.int64]

# Hashes of one block: they and their images stay in the processor's cache.
_BLOCK = 16_384
# The scheme of datasketch 1.x: arithmetic modulo this prime, of which 32 bits are kept.
_PRIME = (1 << 61) - 1
_EMPTY = np.uint64((1 << 32) - 1)


def mix(values: U64) -> U64:
    """Spread 64 bits over all 64, one to one (the finaliser of splitmix64). A new array."""
    mixed = values ^ (values >> np.uint64(30))
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed


def signatures(sets: Ragged, permutations: int) -> U32:
    """MinHash signatures, uint32 (n, permutations), of rows of well-mixed uint64 hashes.

    Permutation k sends the upper 32 bits x of a hash to (a_k x + b_k) mod 2^32 with a_k odd; the
    signature is the smallest image. The share of equal entries of two rows estimates the Jaccard
    similarity of their sets, with variance J (1 - J) / permutations. Repeated hashes do not
    matter. An empty row has the largest number everywhere. O(hashes x permutations), memory the
    result and one block.

    Source: Broder, "On the resemblance and containment of documents", 1997. The permutations are
    fixed: the same sets have the same signature in every process.
    """
    rng = np.random.default_rng(0)
    a = rng.integers(0, 2**32, permutations, dtype=np.uint32) | np.uint32(1)
    b = rng.integers(0, 2**32, permutations, dtype=np.uint32)
    signed = np.full((len(sets), permutations), 2**32 - 1, dtype=np.uint32)
    some = np.flatnonzero(np.diff(sets.indptr))
    upper = (sets.values >> np.uint64(32)).astype(np.uint32)
    for rows in _stretches(sets.indptr, some):
        begin, end = sets.indptr[rows[0]], sets.indptr[rows[-1] + 1]
        part, starts = upper[begin:end], sets.indptr[rows] - begin
        image = np.empty_like(part)
        least = np.empty((permutations, len(rows)), dtype=np.uint32)
        for k in range(permutations):
            np.multiply(part, a[k], out=image)
            np.add(image, b[k], out=image)
            np.minimum.reduceat(image, starts, out=least[k])
        signed[rows] = least.T
    return signed


def _stretches(indptr: Rows, some: Rows) -> list[Rows]:
    """Cut the non-empty rows `some` where their hashes pass a multiple of the block."""
    if not len(some):
        return []
    block = indptr[some] // _BLOCK
    return np.split(some, np.flatnonzero(np.diff(block)) + 1)


def band_keys(signed: U32, bands: int, rows: int) -> U64:
    """One hash a band, uint64 (n, bands): entries `rows` b to `rows` (b + 1) of the signature."""
    keys = np.zeros((len(signed), bands), dtype=np.uint64)
    for place in range(rows):
        keys *= np.uint64(0xD1342543DE82EF95)
        keys += signed[:, place : bands * rows : rows]
        keys = mix(keys)
    return keys


def met(similarity: float | F64, bands: int, rows: int) -> F64:
    """How likely a pair of this Jaccard similarity meets in at least one band: 1 - (1 - J^r)^b."""
    return 1 - (1 - np.asarray(similarity, dtype=np.float64) ** rows) ** bands


def bands_for_recall(threshold: float, recall: float, permutations: int) -> tuple[int, int]:
    """(bands, rows): the longest bands with which a pair at the threshold is met with `recall`.

    Pairs above the threshold are met more often. Raises `RecipeError` if bands of one row do not
    reach the recall.
    """
    for rows in range(permutations, 0, -1):
        bands = permutations // rows
        if met(threshold, bands, rows) >= recall:
            return bands, rows
    raise RecipeError(
        f"{permutations} permutations find pairs of similarity {threshold:g} with a recall of "
        f"{float(met(threshold, permutations, 1)):.3g} at most, below {recall:g}: use more"
    )


def balanced_bands(threshold: float, permutations: int) -> tuple[int, int]:
    """(bands, rows) that minimise the area of false meetings below the threshold plus that of
    misses above it, equally weighted: the usual choice.

    About half of the pairs exactly at the threshold are missed. The integrals are sums over
    midpoints 0.001 apart, as in datasketch. Ties go to the fewest bands.
    """
    below = np.arange(0.0, threshold, 0.001) + 0.0005
    above = np.arange(threshold, 1.0, 0.001) + 0.0005
    best, found = np.inf, (1, 1)
    for bands in range(1, permutations + 1):
        for rows in range(1, permutations // bands + 1):
            wrong = met(below, bands, rows).sum() + (1 - met(above, bands, rows)).sum()
            if wrong < best:
                best, found = float(wrong), (bands, rows)
    return found


def legacy_permutations(permutations: int, seed: int = 1) -> tuple[U64, U64]:
    """The (a, b) that datasketch 1.x draws from its seed."""
    draw = np.random.RandomState(seed)
    pairs = [
        (draw.randint(1, _PRIME, dtype=np.uint64), draw.randint(0, _PRIME, dtype=np.uint64))
        for _ in range(permutations)
    ]
    drawn = np.array(pairs, dtype=np.uint64).reshape(permutations, 2)
    return drawn[:, 0], drawn[:, 1]


def legacy_signature(shingles: Iterable[str], a: U64, b: U64) -> U64:
    """The signature datasketch 1.x (scheme `legacy`) gives a set of texts, uint64 (permutations,).

    h_k(x) = ((a_k x + b_k) mod 2^64 mod (2^61 - 1)) mod 2^32 with x the first 4 bytes of the SHA-1
    of the text. For comparing with signatures stored elsewhere; `signatures` is many times faster.
    """
    digests = [hashlib.sha1(s.encode(), usedforsecurity=False).digest()[:4] for s in shingles]
    x = np.frombuffer(b"".join(digests), dtype="<u4").astype(np.uint64)
    images = ((x[:, None] * a + b) % np.uint64(_PRIME)) & _EMPTY
    smallest: U64 = images.min(axis=0, initial=_EMPTY)
    return smallest
