"""Rows whose embeddings point the same way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tamis.errors import RecipeError
from tamis.numerics.blocked import rows_per_block, slack, unit64, unit_rows
from tamis.numerics.kmeans import cluster
from tamis.numerics.threshold import greedy_filter
from tamis.scoring.base import Advance, PoolColumns, Rows
from tamis.scoring.duplicates import groups

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Places = NDArray[np.int64]

NO_VECTOR = "no_vector"
# What one cluster holds where the number of clusters is not given.
_CLUSTER_ROWS = 20_000


@dataclass(frozen=True)
class DuplicatesSemantic:
    """Groups of rows whose vectors have a cosine of `threshold` or more.

    Pairs are looked for within the clusters of k-means on unit vectors, so a pair that a border
    divides is missed; with `clusters: 1` none is. Left out, there is one cluster for every 20,000
    rows. `greedy` goes through the rows in order and keeps one unless a kept one is near; a row
    then belongs to the nearest kept one. `component` puts all that is linked into one group, which
    may chain far apart. The representative is the row with the highest `keep` (a column), the
    lowest row on ties and without it. Rows without a vector or of length 0 have no value.

    Decisions near the threshold are made in float64. O(sum of squared cluster sizes x d) at most,
    memory one block.

    Source: Abbas et al., "SemDeDup", 2023 (arXiv 2303.09540). Differs: groups and representatives,
    where SemDeDup drops by the largest cosine to any earlier row, dropped ones included.
    """

    threshold: float = 0.95
    embedding: str = "embed.vector"
    clusters: int | None = None
    grouping: groups.Grouping = "greedy"
    keep: str | None = None
    seed: int = 0

    name: ClassVar[str] = "duplicates_semantic"
    version: ClassVar[int] = 1
    about: ClassVar[Mapping[str, str]] = {
        "sentence": "Groups rows that say the same in other words.",
        "needs": "an embedding",
        "view": "none: it reads columns",
        "cost": "a minute or two per 100k rows on two cores",
        "avoid": "with a threshold that was tuned for another encoder",
    }
    fields = groups.FIELDS

    def needs(self) -> frozenset[str]:
        """The embedding, and the column to keep by, if any."""
        return frozenset({self.embedding} | ({self.keep} if self.keep else set()))

    def identity(self) -> Mapping[str, Any]:
        """The options."""
        return {
            "threshold": self.threshold,
            "embedding": self.embedding,
            "clusters": self.clusters,
            "grouping": self.grouping,
            "keep": self.keep,
            "seed": self.seed,
        }

    def check(self) -> None:
        """Raise if an option is out of range."""
        if not 0 < self.threshold <= 1:
            raise RecipeError(f"{self.name}: threshold must be in (0, 1], got {self.threshold:g}")
        if self.clusters is not None and self.clusters < 1:
            raise RecipeError(f"{self.name}: clusters must be 1 or more, got {self.clusters}")

    def score_pool(self, rows: Rows, *, advance: Advance) -> PoolColumns:
        """`group`, `representative`, `similarity`, `size` and `reason`."""
        vectors = np.asarray(rows.columns[self.embedding])
        some = np.isfinite(vectors).all(axis=1) & (vectors != 0).any(axis=1)
        order = groups.preferred(rows, self.keep, some)
        x = vectors[order].astype(np.float32, copy=False)
        leader = np.arange(len(x))
        for members in self._clusters(x, order):
            leader[members] = members[self._leaders(x[members])]
            advance(len(members))
        similarity = _cosines(x, leader)
        return groups.columns(rows.n, order, order[leader], similarity, NO_VECTOR)

    def _clusters(self, x: F32, order: Places) -> Iterator[Places]:
        count = self.clusters or max(1, round(len(x) / _CLUSTER_ROWS))
        if count == 1 or not len(x):
            yield np.arange(len(x))
            return
        # In the order of the rows, so that `keep` does not change the clusters.
        by_row = np.argsort(order)
        found = cluster(unit_rows(x[by_row]), count, rng=np.random.default_rng(self.seed))
        labels = np.empty_like(found.labels)
        labels[by_row] = found.labels
        grouped = np.argsort(labels, kind="stable")
        yield from np.split(grouped, np.cumsum(found.sizes)[:-1])

    def _leaders(self, x: F32) -> Places:
        if self.grouping == "greedy":
            # A cosine above the number below the threshold is one at or above the threshold.
            tau = float(np.nextafter(self.threshold, -1.0))
            found = greedy_filter(x, np.arange(len(x)), tau, len(x))
            return np.where(found.nearest >= 0, found.nearest, np.arange(len(x)))
        return components(x, self.threshold)


def components(x: F32, threshold: float) -> Places:
    """The lowest member of the component of each row of `x` (n, d), under cosine >= threshold."""
    unit = unit_rows(x)
    every = np.arange(len(x))
    lowest = every
    step = rows_per_block(len(x))
    margin = slack(x.shape[1])
    for start in range(0, len(x), step):
        stop = min(start + step, len(x))
        cosine = unit[start:stop] @ unit[:stop].T
        cells = np.flatnonzero(cosine.ravel() >= threshold - margin)
        first, second = np.divmod(cells, stop)
        value = cosine.ravel()[cells]
        first += start
        near = (first > second) & (value >= threshold + margin)
        close = np.flatnonzero((first > second) & (np.abs(value - threshold) < margin))
        near[close] = _exact(x, first[close], second[close]) >= threshold
        # What was linked by the blocks before, and what this one links.
        left, right = np.append(every, first[near]), np.append(lowest, second[near])
        lowest = groups.components(len(x), left, right)
    return lowest


def _cosines(x: F32, leader: Places) -> F64:
    """The cosine of each row with its leader; 1 for a leader itself."""
    value = np.ones(len(x))
    moved = np.flatnonzero(leader != np.arange(len(x)))
    value[moved] = _exact(x, moved, leader[moved])
    return value


def _exact(x: F32, first: Places, second: Places) -> F64:
    """Cosines of pairs in float64, in blocks."""
    value = np.empty(len(first))
    step = rows_per_block(x.shape[1])
    for start in range(0, len(first), step):
        here = slice(start, start + step)
        product = (unit64(x[first[here]]) * unit64(x[second[here]])).sum(axis=1)
        value[here] = np.clip(product, -1.0, 1.0)
    return value
