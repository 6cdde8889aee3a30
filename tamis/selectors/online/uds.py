"""Utility and diversity of a batch from the logits alone (UDS)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from tamis.errors import DataError, RecipeError
from tamis.selectors.base import About
from tamis.selectors.online.base import BatchPicker, Rows, Scores, column
from tamis.selectors.online.fifo import Fifo
from tamis.selectors.online.nuclear import Projection, compact, embed, factor, nuclear_norm

_STATE = ("time_signs", "vocab_signs", "time_index", "vocab_index")


@dataclass
class Uds(BatchPicker):
    """Keep the rows of highest nuclear norm of the logits plus `alpha` times the mean distance to
    the last `queue` rows picked.

    Batch: `hidden` (B, N, h), the hidden states before the head; `attention` (B, N) bool;
    `labels` (B, N), -100 where nothing is learned (`rows="response"` only). `start` takes the head
    W (V, h), which must stay as it is, or be given to `refresh` before each batch; no tensor of N
    by V is made. A head with a bias: a column more in W and a column of ones more in `hidden`.

    `rows` says which positions count: `valid` (attended), `response` (those that predict a trained
    token) or `all` (padding too, as the authors' code). `normalise="length"` divides the utility by
    the number of positions: it grows with length. `alpha` belongs to the scale of the projection,
    which is not isometric: |z| is about sqrt(V `max_length`) / 2 times |logits|. The distance is
    measured over `vocab_dim` x `time_dim` numbers.

    float64; O(B N h min(N, h)) a batch, 4 `queue` `vocab_dim` `time_dim` bytes of state.

    Source: arXiv 2510.16882. Differs from the authors' code: positions of padding do not count,
    nothing is drawn from the global generator, projection and queue are part of the state.
    """

    alpha: float = 1.5e-3
    queue: int = 1024
    vocab_dim: int = 128
    time_dim: int = 8
    max_length: int = 512
    rows: Literal["valid", "response", "all"] = "valid"
    normalise: Literal["none", "length"] = "none"

    name: ClassVar[str] = "uds"
    about: ClassVar[About] = About(
        sentence="Keeps rows whose logits are rich and unlike those of the rows just trained on.",
        needs="the last hidden states of each row and a head that is not trained",
        cost="one forward pass a candidate and about a third of one more for the score",
        avoid="with rows of very different length and normalise: none, or a trained head",
    )

    def __post_init__(self) -> None:
        least = {o: getattr(self, o) for o in ("queue", "vocab_dim", "time_dim", "max_length")}
        for option, value in least.items():
            if value < 1:
                raise RecipeError(f"uds.{option} must be 1 or more, got {value}")
        if not self.alpha >= 0:
            raise RecipeError(f"uds.alpha must be 0 or more, got {self.alpha}")

    def needs(self) -> frozenset[str]:
        """Hidden states and which positions count."""
        extra = {"valid": {"attention"}, "response": {"labels"}, "all": set()}[self.rows]
        return frozenset({"hidden", *extra})

    def start(self, seed: int, head: Any = None) -> None:
        """Draw the projection, empty the queue, factor the head (V, h)."""
        super().start(seed)
        if head is None or head.ndim != 2:
            raise DataError("uds needs the output head (V, h) of the model to start")
        drawn = Projection.draw(
            self.generator(), self.max_length, len(head), self.time_dim, self.vocab_dim
        )
        self._fifo = Fifo(self.queue, self.time_dim * self.vocab_dim, head.device)
        self._use(head, drawn)

    def score(self, batch: Mapping[str, Any]) -> Scores:
        """`total`, `utility`, `diversity` (B,), and `z`, the point to push if the row is picked.

        A row without a position that counts has utility 0 and z 0; one that is not finite has NaN.
        """
        import torch

        hidden = column(batch, "hidden", self.name)
        x, count = compact(hidden, self._kept(batch, hidden))
        finite = torch.isfinite(x).flatten(1).all(dim=1)
        x = torch.where(finite[:, None, None], x, x.new_zeros(())).double()
        utility = nuclear_norm(x @ self._factor)
        if self.normalise == "length":
            utility = utility / count.clamp(min=1)
        z = embed(x, self._projection, self._vocabulary)
        diversity = self._fifo.mean_distance(z)
        nan = torch.full_like(utility, float("nan"))
        utility, diversity = torch.where(finite, utility, nan), torch.where(finite, diversity, nan)
        total = utility + self.alpha * diversity
        found = {"total": total, "utility": utility, "diversity": diversity}
        z = torch.where(finite[:, None], z, nan[:, None])
        return {**{name: value.cpu().numpy() for name, value in found.items()}, "z": z}

    def part(self, scores: Scores, rows: Rows) -> Scores:
        """The same utility; diversity by the queue as it is now."""
        found = super().part(scores, rows)
        away = self._fifo.mean_distance(found["z"]).cpu().numpy()
        found["diversity"] = np.where(np.isfinite(found["utility"]), away, np.nan)
        return {**found, "total": found["utility"] + self.alpha * found["diversity"]}

    def commit(self, scores: Scores, picked: Rows) -> None:
        """Push the picked rows into the queue, lowest row first."""
        self._fifo.push(scores["z"][picked.tolist()])
        super().commit(scores, picked)

    def refresh(self, head: Any) -> None:
        """Take the head as it is now, where it is trained after all. O(V h^2); what the queue
        holds was projected from heads before."""
        self._use(head, self._projection)

    @property
    def queued(self) -> int:
        """How many rows the queue holds."""
        return self._fifo.count

    def state_dict(self) -> dict[str, Any]:
        """The projection and the queue; the head belongs to the model."""
        import torch

        drawn = {name: torch.as_tensor(getattr(self._projection, name)) for name in _STATE}
        return {**super().state_dict(), **drawn, **self._fifo.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the head of `start`; its size and the options must be the same."""
        if tuple(state["points"].shape) != tuple(self._fifo.points.shape):
            raise DataError(
                f"the state of uds holds a queue of {tuple(state['points'].shape)}, the options "
                f"ask for {tuple(self._fifo.points.shape)}: start anew or restore the options"
            )
        super().load_state_dict(state)
        self._use(self._head, Projection(*(state[name] for name in _STATE)))
        self._fifo.load_state_dict(state)

    def _use(self, head: Any, projection: Projection) -> None:
        self._head, self._projection = head.detach(), projection
        self._factor = factor(self._head)
        self._vocabulary = projection.along_vocabulary(self._head)

    def _kept(self, batch: Mapping[str, Any], hidden: Any) -> Any:
        import torch

        if self.rows == "all":
            return torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
        if self.rows == "valid":
            return column(batch, "attention", self.name).bool()
        learned = column(batch, "labels", self.name) != -100
        # Position t predicts the token at t + 1; the last position predicts nothing.
        return torch.cat([learned[:, 1:], torch.zeros_like(learned[:, :1])], dim=1)
