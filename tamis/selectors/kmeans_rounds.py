"""k-means-quality in rounds: train on what was picked, then shift the shares of the clusters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tamis.errors import DataError, RecipeError
from tamis.numerics import round_weights
from tamis.numerics.allocate import allocate
from tamis.numerics.sampling import draw
from tamis.selectors import checks, registry
from tamis.selectors.base import About, Pool, Selection
from tamis.selectors.kmeans import KMeans

F64 = NDArray[np.float64]
Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class RoundState:
    """Where the rounds stand, as arrays only.

    `labels` (n,), `picked` rows in the order picked, `sizes` picks of each round so far, `weights`
    (rounds + 1 so far, K), `scores` (rounds so far, K; NaN: not scored), `noise` (n,) of the draws,
    `budget` (1,) rows in all.
    """

    labels: Rows
    noise: F64
    budget: Rows
    weights: F64
    picked: Rows
    sizes: Rows
    scores: F64


@dataclass(frozen=True)
class KMeansRounds:
    """Iterative k-means-quality: start, then pick and update in turn, `rounds` times.

    Weights of the clusters start equal. A round picks budget / rounds rows (the last one takes
    what is left) by the weights, from rows not picked yet; clusters and draws inside them are those
    of `KMeans` with `options`. The caller trains and scores each row picked so far: score of the
    gold answer minus score of the model's own. `update` turns the mean score of each cluster into
    new weights. `max_new_tokens` is the caller's: how long the model's own answers may get.

    Source: Yu et al., "Diversify and Conquer", 2024 (arXiv 2409.11378), algorithm 1. The rule
    `exp_multiplicative` stands in for equation 6, which fails for negative scores; `eq6` and
    `code` give the paper's and the authors' rule. One round differs from static kmeans: equal
    weights there, shares by size here.
    """

    rounds: int = 3
    rule: round_weights.Rule = "exp_multiplicative"
    temperature: float = 1.0
    shrink: float = 0.0
    max_new_tokens: int = 256
    options: Mapping[str, Any] = field(default_factory=dict)

    name: ClassVar[str] = "kmeans_rounds"
    prefix: ClassVar[bool] = False
    version: ClassVar[int] = 1
    # From a recipe it needs a trainer between the rounds.
    trains: ClassVar[bool] = True
    about: ClassVar[About] = About(
        sentence="k-means-quality in rounds: more of the clusters the tuned model still fails at.",
        needs="those of kmeans, and a tune block: it tunes a model in every round but the last",
        cost="that of kmeans, and a round of tuning and of answering what was picked so far",
        avoid="when one tuning is all you can pay, or answers are too long to generate",
    )

    def __post_init__(self) -> None:
        if self.rounds < 1 or not self.temperature > 0 or self.shrink < 0:
            raise RecipeError(
                "kmeans_rounds needs rounds >= 1, a temperature above 0 and shrink >= 0"
            )
        if self.max_new_tokens < 1:
            raise RecipeError("kmeans_rounds.max_new_tokens must be 1 or more")
        fixed = sorted({"budget", "pick"} & set(self.options))
        if fixed:
            raise RecipeError(
                f"kmeans_rounds decides on {fixed[0]} itself: leave it out of options"
            )
        _ = self.clustering

    @property
    def clustering(self) -> KMeans:
        """The static method that makes the clusters and draws inside them."""
        built = registry.build("kmeans", self.options)
        assert isinstance(built, KMeans)
        return built

    def needs(self) -> frozenset[str]:
        """Those of the clustering."""
        return self.clustering.needs()

    def select(self, pool: Pool, k: int, *, rng: np.random.Generator) -> Selection:
        """What the rounds give when nothing is scored between them: the weights stay equal."""
        once = replace(self, rounds=1)
        _, state = once.pick(once.start(pool, k, rng=rng), pool)
        return once.result(state, pool)

    def start(self, pool: Pool, k: int, *, rng: np.random.Generator) -> RoundState:
        """Cluster the pool; equal weights."""
        k = checks.budget(k, pool.n)
        labels, _ = self.clustering.cluster(pool, max(1, k), rng)
        count = int(labels.max(initial=-1)) + 1
        empty = np.empty(0, dtype=np.int64)
        return RoundState(
            labels=labels,
            noise=rng.gumbel(size=pool.n),
            budget=np.array([k], dtype=np.int64),
            weights=np.full((1, count), 1 / max(1, count)),
            picked=empty,
            sizes=empty,
            scores=np.empty((0, count)),
        )

    def pick(self, state: RoundState, pool: Pool) -> tuple[Selection, RoundState]:
        """The rows of the next round, none of them picked before; the gain is the quality."""
        done, k = len(state.sizes), int(state.budget[0])
        if done >= self.rounds:
            raise DataError(f"all {self.rounds} rounds have been picked")
        if len(state.weights) != done + 1:
            raise DataError("scores of the last round are missing: update before the next pick")
        share = k - len(state.picked) if done == self.rounds - 1 else k // self.rounds
        left = np.setdiff1d(np.arange(pool.n, dtype=np.int64), state.picked)
        count = state.weights.shape[1]
        sizes = np.bincount(state.labels[left], minlength=count)
        value = self.clustering.quality_of(pool)
        weights = self.clustering.log_weights(value, state.labels) if pool.n else value
        shares = allocate(sizes, share, state.weights[-1])
        # One noise for all rounds: a row's chance does not depend on when its cluster is asked.
        index = left[draw(state.labels[left], shares, weights[left], state.noise[left])]
        state = replace(
            state,
            picked=np.concatenate([state.picked, index]),
            sizes=np.append(state.sizes, len(index)).astype(np.int64),
        )
        reason = checks.reasons(pool.n, "not_drawn", index)
        reason[state.picked[: -len(index) or None]] = "picked_before"
        reason[index] = "selected"
        rows = {"reason": reason, "cluster": state.labels}
        facts = {"round": done + 1, "picked": len(state.picked)}
        return Selection(index, value[index], facts=facts, rows=rows), state

    def update(self, state: RoundState, scores: F64) -> RoundState:
        """New weights from the score of each picked row, in the order picked; NaN: not scored."""
        given = np.asarray(scores, dtype=np.float64)
        if given.shape != state.picked.shape:
            raise DataError(
                f"{len(state.picked)} rows were picked so far and {given.size} scores given"
            )
        have = ~np.isnan(given)
        if not have.any():
            raise DataError(f"all {given.size} scores of the round are NaN")
        count = state.weights.shape[1]
        labels = state.labels[state.picked]
        mean = round_weights.cluster_scores(labels[have], given[have], count, self.shrink)
        weight = round_weights.update(state.weights[-1], mean, self.rule, self.temperature)
        return replace(
            state,
            weights=np.vstack([state.weights, weight]),
            scores=np.vstack([state.scores, mean]),
        )

    def result(self, state: RoundState, pool: Pool) -> Selection:
        """All rows picked so far, in the order picked. Curves: the `weights` of each round, the
        cluster `scores` after each (NaN: not scored), and the `picks` of each."""
        reason = checks.reasons(pool.n, "not_drawn", state.picked)
        gain = self.clustering.quality_of(pool)[state.picked]
        facts = {"rounds": len(state.sizes), "clusters": state.weights.shape[1]}
        curves = {"weights": state.weights, "scores": state.scores, "picks": state.sizes}
        rows = {"reason": reason, "cluster": state.labels}
        return Selection(state.picked, gain, facts, curves, rows)
