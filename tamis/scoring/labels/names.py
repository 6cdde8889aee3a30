"""What label sources share: cleaning names, leaving rare ones out, placing them as points."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence

import numpy as np

from tamis.scoring.base import PoolColumns
from tamis.scoring.encoder import Encoder

Lists = Sequence[Sequence[str]]


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


def frequent(lists: Iterable[Sequence[str]], at_least: int) -> set[str]:
    """The names that at least so many rows have."""
    counts = Counter(name for row in lists for name in set(row))
    return {name for name, count in counts.items() if count >= at_least}


def keep(lists: Lists, names: Collection[str]) -> list[list[str]]:
    """The lists with only these names."""
    return [[name for name in row if name in names] for row in lists]
