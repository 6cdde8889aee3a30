"""Spread quality-weighted information over a graph of labels (MIG)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from tamis.errors import DataError, RecipeError
from tamis.numerics import label_graph
from tamis.numerics.information import Information, Phi
from tamis.numerics.label_graph import LabelGraph
from tamis.numerics.ragged import Ragged
from tamis.selectors import checks
from tamis.selectors.base import About, Pool, Selection

F64 = NDArray[np.float64]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Mig:
    """Greedily maximise the information over labels: sum of phi(x_l), phi concave.

    A row gives its `score` to each of its labels (`per_label`: divided by their number), spread to
    similar labels: column-normalised propagation of strength `alpha` over the graph of labels with
    cosine >= `threshold` (a number, `degree:2` for that many neighbours on average, or null for no
    graph). phi is `pow`, (x + offset)^exponent, or `exp`, 1 - exp(-rate x). `gain="gradient"` ranks
    by the inner product with phi' (paper and code), `exact` by what a row really adds.

    The pool's `labels` is a pool with one row a label: `name` and `embedding`. Only labels that
    occur are nodes. Rows without labels come last in pool order, or not at all
    (`unlabelled="drop"`); negative scores are refused, or taken as 0 (`negative="clip"`). Gains
    that differ by less than 1e-12 are ties and go to the lowest row.

    Lazy greedy over groups of rows with the same labels: O(n) to start, a few dozen sums over m
    labels a pick; memory O(n). The graph takes O(L^2 d).

    Source: Chen et al., "MIG", 2025 (arXiv 2504.13835). Differs from the authors' code: k >= n
    ranks all rows instead of failing on the last; no dense n x L matrices; edge cases as above.
    """

    labels: str = "tags.labels"
    score: str = "evol.mean"
    threshold: float | str | None = 0.9
    alpha: float = 1.0
    phi: Literal["pow", "exp"] = "pow"
    exponent: float = 0.8
    offset: float = 1e-6
    rate: float = 1.0
    gain: Literal["gradient", "exact"] = "gradient"
    per_label: bool = False
    unlabelled: Literal["last", "drop"] = "last"
    negative: Literal["refuse", "clip"] = "refuse"

    name: ClassVar[str] = "mig"
    prefix: ClassVar[bool] = True
    version: ClassVar[int] = 1
    about: ClassVar[About] = About(
        sentence="Spreads high-quality rows over topics, with less and less gain a topic.",
        needs="labels and a quality score of each row, an embedding of each label",
        cost="a few seconds; the picks, not the pool, cost",
        avoid="when labels are missing or far coarser than the differences that matter",
    )

    def __post_init__(self) -> None:
        if isinstance(self.threshold, str):
            _degree(self.threshold)
        elif self.threshold is not None and self.threshold < 0:
            raise RecipeError(f"mig.threshold must be 0 or more, got {self.threshold}")
        if self.alpha < 0 or not 0 < self.exponent <= 1 or self.offset <= 0 or self.rate <= 0:
            raise RecipeError(
                "mig needs alpha >= 0, an exponent in (0, 1], and offset and rate above 0"
            )

    def needs(self) -> frozenset[str]:
        """The labels and the score."""
        return frozenset({self.labels, self.score})

    def select(self, pool: Pool, k: int, *, rng: np.random.Generator) -> Selection:
        """Rows in greedy order; the curve `information` is E after each pick, less E of none."""
        k, truncated = checks.budget(k, pool.n), int(k) >= pool.n
        score = self._score(pool)
        given, names = checks.labels(pool, self.labels)
        given, names, empty = _without_empty(given, names)
        weight = score / np.maximum(np.diff(given.indptr), 1) if self.per_label else score
        labels = given.distinct(len(names))
        bare = np.diff(labels.indptr) == 0
        weight = np.where(bare, 0.0, weight)
        graph = self._graph(pool, names)
        information = Information(
            graph, Phi(self.phi, self.exponent, self.offset, self.rate), self.alpha
        )
        index, gain = information.order(labels, weight, k, exact=self.gain == "exact")
        curve = information.curve
        if self.unlabelled == "drop":
            kept = ~bare[index]
            index, gain, curve = index[kept], gain[kept], curve[kept]
        reason = checks.reasons(pool.n, "below_cut", index)
        reason[bare & (reason != "selected")] = "no_label"
        degrees = graph.degrees
        most = int(degrees.max(initial=0))
        facts: dict[str, float | int | str] = {
            "labels": len(names),
            "unlabelled": int(bare.sum()),
            "empty_labels": empty,
            "threshold": graph.threshold,
            "mean_degree": float(degrees.mean()) if len(degrees) else 0.0,
            "max_degree": most,
            "truncated": int(truncated),
        }
        if 10 * most > len(names) >= 10:
            facts["warning"] = (
                f"one label has {most} neighbours of {len(names)} labels: "
                "raise the threshold, or topics run into each other"
            )
        return Selection(index, gain, facts, {"information": curve}, {"reason": reason})

    def _score(self, pool: Pool) -> F64:
        score = checks.numbers(pool, self.score)
        below = np.flatnonzero(score < 0)
        if len(below) and self.negative == "refuse":
            raise DataError(
                f"column {self.score} is negative in {len(below)} of {pool.n} rows, first row "
                f"{below[0]}: mig needs scores >= 0; shift them or set negative: clip"
            )
        return np.maximum(score, 0)

    def _graph(self, pool: Pool, names: list[str]) -> LabelGraph:
        if self.threshold is None or not names:
            return label_graph.unconnected(len(names))
        if pool.labels is None:
            raise DataError(
                "mig needs an embedding of each label; set threshold: null for labels on their own"
            )
        known = {name: row for row, name in enumerate(checks.texts(pool.labels, "name"))}
        absent = [name for name in names if name not in known]
        if absent:
            raise DataError(
                f"{len(absent)} of {len(names)} labels have no embedding, "
                f"the first is {absent[0]!r}"
            )
        rows = np.array([known[name] for name in names])
        embedding = checks.matrix(pool.labels, "embedding")[rows]
        threshold = self.threshold
        if isinstance(threshold, str):
            threshold = label_graph.threshold_for(embedding, _degree(threshold))
        return label_graph.build(embedding, threshold)


def _degree(rule: str) -> float:
    kind, _, number = rule.partition(":")
    try:
        neighbours = float(number)
    except ValueError:
        neighbours = -1.0
    if kind != "degree" or not neighbours >= 0:
        raise RecipeError(f"mig.threshold must be a number or degree:NUMBER, got {rule!r}")
    return neighbours


def _without_empty(labels: Ragged, names: list[str]) -> tuple[Ragged, list[str], int]:
    """Leave out labels that are empty texts; how many times they occurred."""
    if "" not in names:
        return labels, names, 0
    gone = names.index("")
    keep = labels.values != gone
    row = np.repeat(np.arange(len(labels)), np.diff(labels.indptr))[keep]
    indptr = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(labels)))])
    values = labels.values[keep]
    values = values - (values > gone)
    rest = [name for name in names if name]
    return Ragged(indptr.astype(np.int64), values), rest, int((~keep).sum())
