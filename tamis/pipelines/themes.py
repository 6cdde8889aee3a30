"""What a heap of drawn texts is about: tags, themes, and which rows of the data they resemble."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tamis.numerics.blocked import nearest, unit_rows
from tamis.numerics.kmeans import cluster

# Texts of one theme have on average at least this cosine; a theme whose nearest row is below the
# second is probably made up.
_ALIKE, _SUPPORTED = 0.6, 0.3
_EXAMPLES, _ROWS = 3, 5
_SIGNS = {
    "code": re.compile(r"```|^\s*(?:def|class|import|#include|public|return)\b|[;{}]\s*$", re.M),
    "math": re.compile(r"\\(?:frac|sum|sqrt|begin)\b|\$[^$\n]+\$|\d\s*[-+*/=]\s*\d"),
    "markup": re.compile(r"</?[a-zA-Z][^>\n]*>|^#{1,6} |\[[^\]\n]+\]\([^)\n]+\)", re.M),
    "list": re.compile(r"^\s*(?:[-*•]|\d+[.)]) ", re.M),
}


def tags(text: str) -> list[str]:
    """Which of code, math, markup and list a text shows signs of."""
    return [name for name, sign in _SIGNS.items() if sign.search(text)]


def themes(
    texts: Sequence[str],
    steps: Sequence[int],
    scores: Sequence[float],
    vectors: np.ndarray,
    rows: Sequence[Mapping[str, str]],
    row_vectors: np.ndarray,
) -> tuple[list[dict[str, Any]], list[int]]:
    """Texts by theme, the largest first, and the theme of each text (-1 for an empty one).

    Unit vectors (n, d) of texts and (m, d) of rows (`id`, `text`); NaN where there is no text.
    Average linkage of cosines: n is some hundred, so n x n is nothing. Of each theme: `size`,
    `first_step`, mean `score`, the `examples` next to its middle, the nearest `rows` with their
    `similarity`, and `supported`: whether a row comes near at all (null without rows).
    """
    labels = _labels(vectors)
    known = np.flatnonzero(~np.isnan(row_vectors).any(axis=1)) if len(row_vectors) else []
    order = np.argsort(-np.bincount(labels[labels >= 0]), kind="stable")
    found = []
    for number, label in enumerate(order):
        members = np.flatnonzero(labels == label)
        middle = unit_rows(vectors[members].mean(axis=0, keepdims=True))[0]
        near = members[np.argsort(-(vectors[members] @ middle), kind="stable")[:_EXAMPLES]]
        theme: dict[str, Any] = {
            "theme": number,
            "size": len(members),
            "first_step": min(steps[i] for i in members),
            "score": float(np.mean([scores[i] for i in members])),
            "examples": [texts[i] for i in near],
            "rows": [],
            "supported": None,
        }
        if len(known):
            likeness = row_vectors[known] @ middle
            best = np.argsort(-likeness, kind="stable")[:_ROWS]
            theme["rows"] = [
                {**rows[known[i]], "similarity": float(likeness[i])} for i in best.tolist()
            ]
            theme["supported"] = bool(likeness[best[0]] >= _SUPPORTED)
        found.append(theme)
    number_of = {int(label): i for i, label in enumerate(order)}
    return found, [number_of.get(int(label), -1) for label in labels]


def coverage(vectors: np.ndarray, row_vectors: np.ndarray, seed: int) -> list[float]:
    """Share of the clusters of the rows that the first 1, 2, ... texts lie in; [] without rows."""
    known = row_vectors[~np.isnan(row_vectors).any(axis=1)] if len(row_vectors) else row_vectors
    if len(known) < 2:
        return []
    k = int(np.clip(len(known) // 20, 2, 50))
    centres = cluster(known, k, rng=np.random.default_rng(seed)).centres
    hit = np.full(len(vectors), -1, dtype=np.int64)
    some = ~np.isnan(vectors).any(axis=1)
    if some.any():
        hit[some] = nearest(vectors[some], centres)[0]
    seen: set[int] = set()
    shares = []
    for at in hit.tolist():
        seen |= {at} - {-1}
        shares.append(len(seen) / len(centres))
    return shares


def _labels(vectors: np.ndarray) -> np.ndarray:
    """The cluster of each text from 0, int64 (n,); -1 without a vector."""
    from scipy.cluster.hierarchy import fcluster, linkage

    labels = np.full(len(vectors), -1, dtype=np.int64)
    some = np.flatnonzero(~np.isnan(vectors).any(axis=1))
    if len(some) > 1:
        tree = linkage(vectors[some].astype(np.float64), method="average", metric="cosine")
        labels[some] = fcluster(tree, 1 - _ALIKE, criterion="distance") - 1
    else:
        labels[some] = 0
    return labels
