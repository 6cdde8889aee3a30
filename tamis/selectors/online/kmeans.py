"""One row for each cluster of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tamis.errors import DataError
from tamis.numerics import kmeans
from tamis.selectors.base import About
from tamis.selectors.online.base import BatchPicker, Mask, Rows, Scores, numbers

# Rows as near their centre but for rounding, such as the two of a pair; the lowest is kept.
_TIE = 1e-4


@dataclass
class KMeans(BatchPicker):
    """Cluster the batch into k groups and keep the row nearest each centre.

    `embedding` (B, d). Fewer groups than k (copies in the batch): filled up with the rows nearest
    their own centres. Rows with a number that is not finite come last. O(B k d). No paper: a
    baseline of diversity alone.
    """

    name: ClassVar[str] = "kmeans"
    about: ClassVar[About] = About(
        sentence="Keeps one row of each cluster of the batch.",
        needs="an embedding of each row, such as its mean hidden state",
        cost="one forward pass a candidate",
        avoid="when the rows differ in quality: it looks at diversity alone",
    )

    def needs(self) -> frozenset[str]:
        """The embedding."""
        return frozenset({"embedding"})

    def score(self, batch: Mapping[str, Any]) -> Scores:
        """Nothing before k is known: `total` is 0, NaN for a row that is not finite."""
        x = numbers(batch, "embedding", self.name).astype(np.float32)
        if x.ndim != 2:
            raise DataError(f"kmeans needs one embedding a row, (B, d), got {x.shape}")
        total = np.where(np.isfinite(x).all(axis=1), 0.0, np.nan)
        return {"total": total, "embedding": x}

    def pick(self, scores: Scores, eligible: Mask, k: int) -> Rows:
        """The nearest row of each cluster, then whatever is nearest."""
        rows = np.flatnonzero(eligible & np.isfinite(scores["total"]))
        if len(rows) <= k:
            return super().pick(scores, eligible, k)
        x = scores["embedding"][rows]
        found = kmeans.cluster(x, k, rng=self.generator())
        away = np.square(x.astype(np.float64) - found.centres[found.labels]).sum(axis=1)
        nearest = np.full(k, np.inf)
        np.minimum.at(nearest, found.labels, away)
        behind = away > nearest[found.labels] * (1 + _TIE)
        order = np.lexsort((behind, found.labels))
        labels = found.labels[order]
        first = np.r_[True, labels[1:] != labels[:-1]]
        rest = order[~first]
        rest = rest[np.argsort(away[rest], kind="stable")]
        return np.sort(rows[np.r_[order[first], rest][:k]]).astype(np.int64)
