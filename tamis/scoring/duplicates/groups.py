"""What the scorers of duplicates share: the order of preference, the groups, the columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tamis.scoring.base import PoolColumns, Rows

Places = NDArray[np.int64]
F64 = NDArray[np.float64]
Grouping = Literal["component", "greedy"]

FIELDS = ("group", "representative", "similarity", "size", "reason")
NO_TEXT = "no_text"


def preferred(rows: Rows, keep: str | None, some: NDArray[np.bool_]) -> Places:
    """The rows of the mask `some`, the one to keep first: highest `keep`, rows without a value
    last, ties and all rows without `keep` by row."""
    found = np.flatnonzero(some)
    if keep is None:
        return found
    value = np.asarray(rows.columns[keep], dtype=np.float64)[found]
    return found[np.argsort(-value, kind="stable")]


def copies(keys: NDArray[Any]) -> tuple[Places, Places]:
    """The places where a key comes first, ascending, and for each place the number of its first.

    `keys[firsts[number]] == keys`.
    """
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return first[order], rank[inverse]


def components(n: int, first: Places, second: Places) -> Places:
    """The lowest member of the connected component of each of `n` places, given the pairs."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    graph = coo_matrix((np.ones(len(first), dtype=bool), (first, second)), shape=(n, n))
    _, label = connected_components(graph, directed=False)
    lowest = np.full(n, n, dtype=np.int64)
    np.minimum.at(lowest, label, np.arange(n))
    return lowest[label]


def greedy(n: int, first: Places, second: Places, similarity: F64) -> Places:
    """The kept place of each of `n` places, itself if kept: in order, a place is kept unless a kept
    one is paired with it; it then goes to the most similar of those, the lowest on ties.

    Each place depends on the one before, so this is a loop, over the pairs alone: O(n + pairs).
    """
    low, high = np.minimum(first, second), np.maximum(first, second)
    order = np.lexsort((low, -similarity, high))
    leader = np.arange(n)
    kept = np.ones(n, dtype=bool)
    for here, earlier in zip(high[order].tolist(), low[order].tolist(), strict=True):
        # The nearest comes first; what is kept of the earlier ones is settled.
        if kept[here] and kept[earlier]:
            kept[here] = False
            leader[here] = earlier
    return leader


def columns(n: int, rows: Places, leader: Places, similarity: F64, reason: str) -> PoolColumns:
    """The fields of `n` rows of which `rows` have a value.

    `leader` and `similarity` tell the representative of each of `rows`. Groups are numbered by
    their first row; a row alone has no group. The others have `reason`.
    """
    own = np.full(n, -1, dtype=np.int64)
    own[rows] = leader
    size = np.bincount(leader, minlength=n).astype(np.float64)
    place = np.flatnonzero(own >= 0)
    together = place[size[own[place]] > 1]
    _, number = copies(own[together])
    values = {name: np.full(n, np.nan) for name in FIELDS[:-1]}
    values["group"][together] = number
    values["representative"][place] = own[place] == place
    values["similarity"][rows] = similarity
    values["size"][place] = size[own[place]]
    why = np.full(n, None, dtype=object)
    why[own < 0] = reason
    facts: Mapping[str, Any] = {
        "groups": len(np.unique(own[together])),
        "duplicates": len(rows) - len(np.unique(leader)),
    }
    return PoolColumns({**values, "reason": why}, facts=facts)
