"""A weight for each row, learned against a safe set while the model is trained (BDS)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from tamis.errors import DataError, RecipeError
from tamis.selectors.base import About
from tamis.selectors.online import schedule
from tamis.selectors.online.base import F64, BatchPicker, Rows, Scores, numbers


@dataclass
class Bds(BatchPicker):
    """Give each row the weight n softmax(w)_i, lower where its loss stays high beside a safe set.

    Batch: `ids` (B,), the place of each row in the pool, and `loss` (B,), its mean loss over
    trained tokens; `embedding` (B, d) for the amortised scheduler. `total` and `weight` are the
    weight: the trainer multiplies the loss of a kept row by it; kept at 100 %, BDS only weighs.
    `commit` then takes one step of w by dense Adam of `learning_rate` on the losses seen.

    `scheduler`: `scalar`, a free w_i a row; `amortised`, w_i = v . x_i, x_i the embedding divided
    by its length, v trained, the last w of every row kept. `entropy` above 0 flattens the weights.
    `temperature` adds Langevin noise, sqrt(2 learning_rate temperature) xi, to each step of the
    scalar scheduler. Rows with a loss that is not finite get weight 0 in that step and move
    nothing. O(n) a step, three numbers a row.

    Source: arXiv 2510.27172. Differs from the authors' code: the amortised scheduler is trained,
    and its softmax is over the pool; Langevin noise is an option.
    """

    scheduler: Literal["scalar", "amortised"] = "scalar"
    learning_rate: float = 5e-3
    entropy: float = 0.0
    temperature: float = 0.0

    name: ClassVar[str] = "bds"
    about: ClassVar[About] = About(
        sentence="Weighs each row, near nothing for those at odds with a small trusted set.",
        needs="the place and loss of each row, and a safe set that the trainer mixes in",
        cost="a vector as long as the pool a step; the safe set doubles the work",
        avoid="as a filter of quality: hard rows lose weight like harmful ones",
    )

    def __post_init__(self) -> None:
        if not self.learning_rate > 0 or self.entropy < 0 or self.temperature < 0:
            raise RecipeError(
                "bds needs a learning_rate above 0, and entropy and temperature of 0 or more, got "
                f"{self.learning_rate}, {self.entropy}, {self.temperature}"
            )
        if self.temperature and self.scheduler == "amortised":
            raise RecipeError("bds.temperature belongs to scheduler: scalar")

    def needs(self) -> frozenset[str]:
        """Places and losses."""
        extra = {"embedding"} if self.scheduler == "amortised" else set()
        return frozenset({"ids", "loss", *extra})

    def start(self, seed: int, rows: int = 0, width: int = 0) -> None:
        """Weight 1 for each of the `rows` of the pool; `width` of an embedding, if amortised."""
        super().start(seed)
        if rows < 1 or (self.scheduler == "amortised" and width < 1):
            raise DataError(
                "bds needs the number of rows of the pool, and the width of an embedding for the "
                f"amortised scheduler, got {rows} and {width}"
            )
        self.logits: F64 = np.full(rows, 0.1 if self.scheduler == "scalar" else 0.0)
        self._line: F64 = np.zeros(width)
        size = rows if self.scheduler == "scalar" else width
        self._adam = schedule.Adam(size, self.learning_rate)

    def weights(self) -> F64:
        """The weight of every row of the pool; their mean is 1."""
        return schedule.weights(self.logits)

    def effective_rows(self) -> float:
        """(sum a)^2 / sum a^2: how many rows carry the training. Far below n, add entropy."""
        a = self.weights()
        return float(a.sum() ** 2 / (a @ a))

    def score(self, batch: Mapping[str, Any]) -> Scores:
        """`total` and `weight` of each row, with what `commit` learns from."""
        ids = numbers(batch, "ids", self.name).astype(np.int64)
        if len(ids) and not 0 <= ids.min() <= ids.max() < len(self.logits):
            raise DataError(
                f"bds was started for {len(self.logits)} rows, and a batch holds the places "
                f"{ids.min()} to {ids.max()}"
            )
        loss = numbers(batch, "loss", self.name)
        scores: Scores = {"ids": ids, "loss": loss}
        if self.scheduler == "amortised":
            # As they come, hidden states are so long that a few steps put all weight on one row.
            x = numbers(batch, "embedding", self.name)
            length = np.linalg.norm(x, axis=1, keepdims=True)
            scores["embedding"] = x / np.maximum(length, np.finfo(np.float64).tiny)
            self.logits[ids] = scores["embedding"] @ self._line
        a = self.weights()[ids]
        real = np.isfinite(loss)
        return {**scores, "total": np.where(real, a, np.nan), "weight": np.where(real, a, 0.0)}

    def commit(self, scores: Scores, picked: Rows) -> None:
        """One step of the scheduler on the losses of all rows of the batch, picked or not."""
        ids, loss = scores["ids"], scores["loss"]
        if self.scheduler == "scalar":
            priors = schedule.Priors(entropy=self.entropy)
            _, gradient = schedule.loss_and_gradient(self.logits, ids, loss, priors=priors)
            self.logits = self._adam.step(self.logits, gradient)
            if self.temperature:
                noise = self.generator().standard_normal(len(self.logits))
                self.logits += np.sqrt(2 * self.learning_rate * self.temperature) * noise
        else:
            x = scores["embedding"]
            gradient = schedule.line_gradient(self.logits, ids, loss, x, self.entropy)
            self._line = self._adam.step(self._line, gradient)
        super().commit(scores, picked)

    def state_dict(self) -> dict[str, Any]:
        """Logits, the line, both moments, and the steps taken."""
        adam = {"first": self._adam.first.copy(), "second": self._adam.second.copy()}
        own = {"logits": self.logits.copy(), "line": self._line.copy(), "steps": self._adam.steps}
        return {**super().state_dict(), **own, **adam}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on; the pool must be the same."""
        if len(state["logits"]) != len(self.logits) or len(state["line"]) != len(self._line):
            raise DataError(
                f"the state of bds is of {len(state['logits'])} rows, the pool has "
                f"{len(self.logits)}: resume on the same rows or start anew"
            )
        super().load_state_dict(state)
        self.logits, self._line = np.array(state["logits"]), np.array(state["line"])
        self._adam.first, self._adam.second = np.array(state["first"]), np.array(state["second"])
        self._adam.steps = int(state["steps"])
