"""TAID: learn from a teacher by way of targets that lie between it and the model itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tamis.errors import RecipeError
from tamis.selectors.base import About
from tamis.trainer.objectives.base import Objective


@dataclass(frozen=True)
class Taid(Objective):
    """cost_t = KL(p_t || p), with p the distribution of the model in training and
    p_t = softmax((1 - t) stopgrad(its logits) + t (those of the teacher)).

    t rises from `start` to `end`: see `Ramp`; `alpha` and `beta` are its. With `start: 1` it stays
    there, which is plain distillation by forward KL. `teacher` names an entry of `models` whose
    tokens are those of the model; it reads the rows as the model does, without gradient. The rows'
    own tokens are context only: what is learnt at each is the teacher's distribution. Costs a
    forward pass of the teacher, and a second chunk of logits.

    Source: Shing et al., "TAID: Temporally Adaptive Interpolated Distillation", 2025 (arXiv
    2501.16937). Their code takes the cross-entropy to p_t for the loss (`loss: cross_entropy`), of
    the same gradient but larger by the entropy of p_t, so that the relative drops that t follows
    are smaller; the paper has the KL. Their mean is over a micro-batch, and t moves with each;
    here both go by the whole optimizer step.
    """

    teacher: str | None = None
    start: float = 0.4
    end: float = 1.0
    alpha: float = 5e-4
    beta: float = 0.99
    loss: Literal["kl", "cross_entropy"] = "kl"

    name = "taid"
    taught = True
    about = About(
        sentence="KL from targets between the model's own distribution and a teacher's.",
        needs="a teacher: a model with the same tokens",
        cost="one forward pass of the teacher a batch, and its memory",
        avoid="a teacher no better than the model; answers it would not give",
    )

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end <= 1:
            raise RecipeError(
                f"taid: start={self.start}, end={self.end}: expected 0 <= start <= end <= 1"
            )
        for name in ("alpha", "beta"):
            if not 0 <= getattr(self, name) <= 1:
                raise RecipeError(f"taid: {name}={getattr(self, name)}: expected 0 to 1")

    def cost(self, terms: Mapping[str, Any]) -> Any:
        """See `Objective`."""
        return terms["kl"] + terms["entropy"] if self.loss == "cross_entropy" else terms["kl"]


@dataclass
class Ramp:
    """The t of TAID over a run. After step n (from 0) of N with the loss J_n:

    m = beta m + (1 - beta) (J_(n-1) - J_n) / J_(n-1), from m = 0 on;
    t = min(end, max(start + (end - start) n / N, t + alpha sigmoid(m) (1 - t))).

    So t never falls, and is ahead of the straight line where the loss falls fast enough; with the
    authors' alpha that takes some thousand steps. The first step only notes its loss.
    """

    asked: Taid
    momentum: float = 0.0
    last: float | None = None
    t: float = field(init=False)

    def __post_init__(self) -> None:
        self.t = self.asked.start

    def advance(self, loss: float, step: int, steps: int) -> None:
        """Take the loss of a step, and choose the t of the next."""
        asked, before, self.last = self.asked, self.last, loss
        if before is None:
            return
        drop = (before - loss) / (before + 1e-15)
        self.momentum = asked.beta * self.momentum + (1 - asked.beta) * drop
        sigmoid = (1 + math.tanh(self.momentum / 2)) / 2
        line = asked.start + (asked.end - asked.start) * step / steps
        self.t = min(asked.end, max(line, self.t + asked.alpha * sigmoid * (1 - self.t)))

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run goes on from."""
        return {"t": self.t, "momentum": self.momentum, "last": self.last}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.t, self.momentum, self.last = state["t"], state["momentum"], state["last"]
