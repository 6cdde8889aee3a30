"""The weights of the Bayesian data scheduler: their loss, its gradient, dense Adam (BDS)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
Rows = NDArray[np.int64]
Activation = Literal["softmax", "sigmoid", "linear"]
Mode = Literal["safe+weighted", "weighted", "plain", "safe+plain"]


@dataclass(frozen=True)
class Priors:
    """Factors of the priors on the logits; 0 is none. `entropy` above 0 flattens the weights."""

    entropy: float = 0.0
    gaussian: float = 0.0
    mean: float = 0.0
    deviation: float = 1.0


def softmax(logits: F64) -> F64:
    """Shares that sum to 1."""
    raised = np.exp(logits - logits.max())
    shares: F64 = raised / raised.sum()
    return shares


def weights(logits: F64, activation: Activation = "softmax") -> F64:
    """The weight of every row: n softmax(w), 2 sigmoid(w), or w itself, which may be negative."""
    if activation == "softmax":
        return len(logits) * softmax(logits)
    return 2 / (1 + np.exp(-logits)) if activation == "sigmoid" else logits.copy()


def batch_weights(logits: F64) -> F64:
    """b softmax over the b rows of a batch alone: their mean is 1 whatever the batch holds."""
    return weights(logits)


def loss_and_gradient(
    logits: F64,
    ids: Rows,
    losses: F64,
    activation: Activation = "softmax",
    priors: Priors = Priors(),
) -> tuple[float, F64]:
    """R = mean over the batch of weight * loss, plus priors, and dR/dw (n,), dense.

    Rows whose loss is not finite are left out, of the mean too. An id may occur more than once.
    O(n).
    """
    real = np.isfinite(losses)
    ids, losses = ids[real], losses[real]
    a, share = weights(logits, activation), softmax(logits)
    pull = np.zeros_like(logits)
    value = 0.0
    if len(ids):
        np.add.at(pull, ids, losses / len(ids))
        value = float(a @ pull)
    if activation == "softmax":
        gradient = a * (pull - share @ pull)
    else:
        gradient = pull * (a * (1 - a / 2) if activation == "sigmoid" else 1.0)
    if priors.entropy:
        log = np.log(np.maximum(share, np.finfo(np.float64).tiny))
        negative = float(share @ log)
        value += priors.entropy * negative
        gradient = gradient + priors.entropy * share * (log - negative)
    if priors.gaussian:
        away = (logits - priors.mean) / priors.deviation
        height = np.log(priors.deviation * np.sqrt(2 * np.pi))
        value += priors.gaussian * float((away**2 / 2 + height).sum())
        gradient = gradient + priors.gaussian * away / priors.deviation
    return value, gradient


def line_gradient(logits: F64, ids: Rows, losses: F64, x: F64, entropy: float = 0.0) -> F64:
    """dR/dv (d,) for logits w_i = v . x_i, from a batch: `x` (b, d) are the embeddings of `ids`.

    Over the whole pool dR/dv is a covariance, that of loss and embedding weighted by a; here it is
    that of the batch: exact for a batch that is the pool, and the same direction on average for
    smaller ones. Rows whose loss is not finite are left out. O(n + b d).
    """
    real = np.isfinite(losses)
    ids, losses, x = ids[real], losses[real], x[real]
    if not len(ids):
        return np.zeros(x.shape[1])
    share = softmax(logits)[ids]
    prior = entropy * np.log(np.maximum(share, np.finfo(np.float64).tiny))
    a, cost = len(logits) * share, losses + prior
    total = max(a.sum(), np.finfo(np.float64).tiny)
    pull = a * (cost - a @ cost / total) / len(ids)
    gradient: F64 = pull @ (x - a @ x / total)
    return gradient


def joint_loss(safe: F64, tuned: F64, weight: F64, mode: Mode | float = "safe+weighted") -> float:
    """The model's loss of a safe batch and a weighted one; a number is the share of the safe
    part. Rows that are not finite are left out of their mean."""
    trusted = _mean(safe)
    weighted, plain = _mean(weight * tuned), _mean(tuned)
    if isinstance(mode, str):
        first = trusted if mode.startswith("safe") else 0.0
        return first + (weighted if mode.endswith("weighted") else plain)
    return mode * trusted + (1 - mode) * weighted


def langevin(w: F64, gradient: F64, rate: float, temperature: float, noise: F64) -> F64:
    """One step of stochastic gradient Langevin dynamics: w - rate/2 g + sqrt(rate T) noise."""
    moved: F64 = w - rate / 2 * gradient + np.sqrt(rate * temperature) * noise
    return moved


class Adam:
    """Adam over a whole vector, clipped by norm. Every entry moves at every step: the signal is
    in the drift of the rows that are not in the batch, so a lazy form would lose it."""

    def __init__(
        self,
        size: int,
        rate: float,
        betas: tuple[float, float] = (0.9, 0.95),
        epsilon: float = 1e-8,
        clip: float = 10.0,
    ):
        self.rate, self.betas, self.epsilon, self.clip = rate, betas, epsilon, clip
        self.first, self.second, self.steps = np.zeros(size), np.zeros(size), 0

    def step(self, w: F64, gradient: F64) -> F64:
        """The vector after a step down the gradient."""
        norm = float(np.sqrt(gradient @ gradient))
        gradient = gradient * min(1.0, self.clip / (norm + 1e-6))
        one, two = self.betas
        self.steps += 1
        self.first = one * self.first + (1 - one) * gradient
        self.second = two * self.second + (1 - two) * gradient**2
        mean = self.first / (1 - one**self.steps)
        spread = np.sqrt(self.second / (1 - two**self.steps))
        moved: F64 = w - self.rate * mean / (spread + self.epsilon)
        return moved


def _mean(values: F64) -> float:
    real = values[np.isfinite(values)]
    return float(real.mean()) if len(real) else 0.0
