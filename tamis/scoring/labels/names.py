"""What label sources share: cleaning names, leaving rare ones out, placing them as points."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

import numpy as np

from tamis.numerics.blocked import rows_per_block, unit_rows
from tamis.scoring.base import PoolColumns
from tamis.scoring.encoder import Encoder

Lists = Sequence[Sequence[str]]
NO_VECTOR = "no_vector"


def labelled(lists: Lists, encoder: Encoder, *, text: Callable[[str], str] = str) -> PoolColumns:
    """Lists of names a row as `labels`, and each name that occurs with the embedding of its
    text."""
    names = sorted({name for row in lists for name in row})
    vectors, _ = encoder.encode([text(name) for name in names])
    return PoolColumns(
        {"labels": column(lists)},
        {"name": np.array(names, dtype=object), "embedding": vectors},
        {"labels": len(names), "unlabelled_rows": sum(not row for row in lists)},
    )


def column(lists: Lists) -> np.ndarray:
    """Lists of names as a column (n,) of lists; a row may have none."""
    found = np.empty(len(lists), dtype=object)
    for i, row in enumerate(lists):
        found[i] = list(row)
    return found


def nearest(
    vectors: np.ndarray, places: np.ndarray, most: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The `most` of the unit rows `places` (L, d) nearest to each of `vectors` (n, d), in blocks.

    Yields (row numbers (b,), places (b, most), cosines (b, most)), nearest first, ties to the first
    place; rows with a NaN are in no block. Cosines are rounded to six places, so that copies have
    the same labels whatever the shape of the product.
    """
    some = np.flatnonzero(np.isfinite(vectors).all(axis=1))
    step = rows_per_block(len(places))
    for start in range(0, len(some), step):
        part = some[start : start + step]
        cosine = np.round(unit_rows(vectors[part]).astype(np.float64) @ places.T, 6)
        order = np.argsort(-cosine, axis=1, kind="stable")[:, :most]
        yield part, order, np.take_along_axis(cosine, order, axis=1)


def frequent(lists: Iterable[Sequence[str]], at_least: int) -> set[str]:
    """The names that at least so many rows have."""
    counts = Counter(name for row in lists for name in set(row))
    return {name for name, count in counts.items() if count >= at_least}


def keep(lists: Lists, names: Collection[str]) -> list[list[str]]:
    """The lists with only these names."""
    return [[name for name in row if name in names] for row in lists]
