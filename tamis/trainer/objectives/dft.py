"""Dynamic fine-tuning: tokens that the model finds improbable count less."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tamis.selectors.base import About
from tamis.trainer.objectives.base import Objective


@dataclass(frozen=True)
class Dft(Objective):
    """cost_t = stopgrad(p_t) nll_t, with p_t the probability of the token in float32.

    Its values are far below those of nll (the most a token can cost is 1/e), so compare the `nll`
    of runs. Where p is 1, cost and gradient are those of nll.

    Source: "On the Generalization of SFT", 2025 (arXiv 2508.05629).
    """

    name = "dft"
    about = About(
        sentence="-log p of each token times its probability: what is improbable counts little.",
        needs="nothing",
        cost="none beyond the forward pass",
        avoid="new knowledge, which is improbable at the start",
    )

    def cost(self, terms: Mapping[str, Any]) -> Any:
        """See `Objective`."""
        return dynamic(terms["nll"])


def dynamic(nll: Any) -> Any:
    """stopgrad(exp(-nll)) nll of float32 `nll` (m,)."""
    return (-nll.detach()).exp() * nll
