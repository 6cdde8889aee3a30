"""Cluster the pool, give each cluster its share, draw inside by quality (k-means-quality)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from tamis.errors import DataError, RecipeError
from tamis.numerics import silhouette as scores
from tamis.numerics.allocate import allocate
from tamis.numerics.blocked import unit_rows
from tamis.numerics.kmeans import Engine, cluster, means
from tamis.numerics.sampling import draw, first_of_groups
from tamis.selectors import checks
from tamis.selectors.base import About, Pool, Selection

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Rows = NDArray[np.int64]

# The grid of K that `silhouette` and `elbow` choose from.
_GRID = tuple(2**p for p in range(1, 14))
# Above this many rows K is chosen on a sample; above the second the silhouette is the simplified.
_SAMPLE = 20_000
_EXACT = 5_000


@dataclass(frozen=True)
class KMeans:
    """k-means on the embedding, a budget a cluster, weighted draws inside (static kMQ).

    `clusters` is K, or `silhouette` / `elbow` to choose it from powers of 2 (best mean
    silhouette; farthest below the chord of the inertia curve), or give `labels`, a column with
    clusters of your own. A K above the budget is lowered to half of it, and to the number of
    distinct rows;
    all-zero embeddings form a cluster of their own.
    `budget`: `proportional` to cluster size (paper), `equal` shares with exact sum, or
    `equal_floor`, the official rule int(B / K), which leaves budget unspent.
    `quality` names the column that weights draws: `softmax` of quality / `temperature`, on
    z-scores unless `standardize` is off, or `linear`; no quality column, uniform draws.
    `pick="closest"` takes the rows nearest to the cluster's mean instead of drawing.

    Order: clusters by number, draw order inside. Time O(n K d) an iteration.

    Source: Yu et al., "Diversify and Conquer", 2024 (arXiv 2409.11378). Differs from the paper:
    draws without replacement, z-scores (the raw softmax is nearly deterministic). The authors'
    code is `budget="equal_floor", standardize=False, normalize=False` but for its random stream.
    """

    embedding: str = "embed.vector"
    quality: str | None = "evol.total"
    clusters: int | Literal["silhouette", "elbow"] = 2048
    labels: str | None = None
    budget: Literal["proportional", "equal", "equal_floor"] = "proportional"
    pick: Literal["draw", "closest"] = "draw"
    weight: Literal["softmax", "linear"] = "softmax"
    temperature: float = 1.0
    standardize: bool = True
    normalize: bool = True
    iterations: int = 50
    restarts: int = 1
    engine: Engine = "numpy"

    name: ClassVar[str] = "kmeans"
    prefix: ClassVar[bool] = False
    version: ClassVar[int] = 2
    about: ClassVar[About] = About(
        sentence="Covers the pool by k-means clusters and draws inside each by quality.",
        needs="an embedding, and a quality column unless draws are uniform",
        cost="a minute on two cores at K = 1,000 and 384 dimensions",
        avoid="with a budget of only a few rows a cluster",
    )

    def __post_init__(self) -> None:
        if not isinstance(self.clusters, str) and self.clusters < 1:
            raise RecipeError(f"kmeans.clusters must be 1 or more, got {self.clusters}")
        if not self.temperature > 0:
            raise RecipeError(f"kmeans.temperature must be above 0, got {self.temperature}")
        if self.iterations < 0 or self.restarts < 1:
            raise RecipeError("kmeans.iterations must be 0 or more and kmeans.restarts 1 or more")

    def needs(self) -> frozenset[str]:
        """The embedding unless labels make it needless, the quality and labels columns if named."""
        used = {self.quality if self.pick == "draw" else None, self.labels}
        if self.labels is None or self.pick == "closest":
            used.add(self.embedding)
        return frozenset(name for name in used if name)

    def select(self, pool: Pool, k: int, *, rng: np.random.Generator) -> Selection:
        """Picks cluster by cluster; the gain is the quality (1 without), or minus the distance."""
        k = checks.budget(k, pool.n)
        x = self._vectors(pool)
        value = self.quality_of(pool)
        if pool.n == 0 or k == 0:
            labels = np.full(pool.n, -1, dtype=np.int64)
            return _selection(labels, np.empty(0, dtype=np.int64), value, {})
        labels, facts = self._labels(pool, x, k, rng)
        sizes = np.bincount(labels).astype(np.int64)
        shares = self.shares(sizes, k)
        if self.pick == "closest" and x is not None:
            centres, _ = means(x, labels, len(sizes))
            gap = x - centres[labels]
            value = -np.einsum("ij,ij->i", gap, gap)
            index = first_of_groups(labels, shares, value)
        else:
            weights = self.log_weights(value, labels)
            index = draw(labels, shares, weights, rng.gumbel(size=pool.n))
        return _selection(labels, index, value, facts)

    def shares(self, sizes: Rows, k: int) -> Rows:
        """Rows to take from each cluster of the given sizes."""
        if self.budget == "equal_floor":
            return np.minimum(k // len(sizes), sizes)
        return allocate(sizes, k, sizes if self.budget == "proportional" else np.ones(len(sizes)))

    def log_weights(self, quality: F64, labels: Rows) -> F64:
        """Logarithm of each row's weight in the draws of its cluster, up to a constant."""
        if self.quality is None:
            return np.zeros(len(labels))
        if self.weight == "linear":
            if (quality < 0).any():
                raise DataError(
                    f"kmeans.weight linear needs quality >= 0; column {self.quality} has "
                    f"{int((quality < 0).sum())} negative values: use softmax"
                )
            with np.errstate(divide="ignore"):
                return np.log(quality)
        if self.standardize:
            spread = float(quality.std())
            quality = (quality - quality.mean()) / (spread if spread > 0 else 1.0)
        return quality / self.temperature

    def _vectors(self, pool: Pool) -> F32 | None:
        if self.embedding not in self.needs():
            return None
        x = checks.matrix(pool, self.embedding)
        return unit_rows(x) if self.normalize else x

    def cluster(
        self, pool: Pool, k: int, rng: np.random.Generator
    ) -> tuple[Rows, dict[str, float | int | str]]:
        """The cluster of each row for a budget of k rows, and how it was found."""
        if pool.n == 0:
            return np.empty(0, dtype=np.int64), {}
        return self._labels(pool, self._vectors(pool), k, rng)

    def quality_of(self, pool: Pool) -> F64:
        """The quality of each row; 1 where no column is named or draws do not use it."""
        if self.quality is None or self.pick == "closest":
            return np.ones(pool.n)
        return checks.numbers(pool, self.quality)

    def _labels(
        self, pool: Pool, x: F32 | None, k: int, rng: np.random.Generator
    ) -> tuple[Rows, dict[str, float | int | str]]:
        if self.labels is not None:
            _, closed = np.unique(checks.texts(pool, self.labels), return_inverse=True)
            return closed.astype(np.int64), {"clusters": int(closed.max()) + 1}
        if x is None:
            raise DataError(f"kmeans needs the column {self.embedding}")
        zero = ~x.any(axis=1)
        labels = np.full(len(x), -1, dtype=np.int64)
        facts: dict[str, float | int | str] = {"zero_vectors": int(zero.sum())}
        if not zero.all():
            rows = x[~zero] if zero.any() else x
            wanted = self._wanted(rows, k, rng, facts)
            found = cluster(
                rows,
                wanted,
                rng=rng,
                iterations=self.iterations,
                restarts=self.restarts,
                engine=self.engine,
            )
            labels[~zero] = found.labels
            facts |= {"inertia": found.inertia, "engine": found.engine}
        labels[zero] = labels.max() + 1
        facts["clusters"] = int(labels.max()) + 1
        return labels, facts

    def _wanted(
        self, x: F32, k: int, rng: np.random.Generator, facts: dict[str, float | int | str]
    ) -> int:
        """K, lowered to half the budget where it is above the budget: K much smaller is assumed."""
        most = max(1, k // 2)
        if not isinstance(self.clusters, str):
            if self.clusters <= k:
                return self.clusters
            facts["clusters_lowered_from"] = self.clusters
            return most
        grid = [size for size in _GRID if size <= min(most, len(x) - 1)]
        if len(grid) < 2:
            return most
        return choose(x, grid, by=self.clusters, rng=rng, engine=self.engine)


def choose(
    x: F32,
    grid: list[int],
    *,
    by: Literal["silhouette", "elbow"],
    rng: np.random.Generator,
    engine: Engine = "numpy",
) -> int:
    """The K of `grid` with the best mean silhouette, or at the elbow of the inertia curve.

    On at most 20,000 random rows; above 5,000 the silhouette measures to cluster means. Ties go
    to the smaller K.
    """
    if len(x) > _SAMPLE:
        x = x[np.sort(rng.choice(len(x), _SAMPLE, replace=False))]
    found = [cluster(x, size, rng=rng, restarts=3, engine=engine) for size in grid]
    if by == "elbow":
        return scores.elbow(grid, [clusters.inertia for clusters in found])
    measure = scores.silhouette if len(x) <= _EXACT else scores.simplified_silhouette
    values = [measure(x, c.labels) if 1 < len(c.centres) < len(x) else -1.0 for c in found]
    return grid[int(np.argmax(values))]


def _selection(
    labels: Rows, index: Rows, value: F64, facts: dict[str, float | int | str]
) -> Selection:
    reason = checks.reasons(len(labels), "not_drawn", index)
    return Selection(index, value[index], facts=facts, rows={"reason": reason, "cluster": labels})
