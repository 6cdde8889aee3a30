"""Anchored fine-tuning: DFT or nll, kept near the model training started from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tamis.errors import RecipeError
from tamis.selectors.base import About
from tamis.trainer.objectives.base import Objective
from tamis.trainer.objectives.dft import dynamic


@dataclass(frozen=True)
class Asft(Objective):
    """cost_t = stopgrad(p_t) nll_t + kl_weight KL_t, with KL_t = sum_v q_v (log q_v - log p_v), q
    the distribution of the model before training and p that of the model in training.

    `mode` sft_kl has nll_t in the place of stopgrad(p_t) nll_t. q comes from the adapter switched
    off, or from a second, frozen copy where all weights are trained; without gradient and without
    dropout. Costs one more forward pass, and a second chunk of logits.

    Source: "Anchored Supervised Fine-Tuning", 2025 (arXiv 2509.23753). Their code averages inside
    each micro-batch, which is biased when these differ in size, leaves dropout on in the pass of
    the start model, and looks for the adapter's switch on a model that may be wrapped; here the
    mean is over the optimizer step and the switch is taken from the adapter itself.
    """

    kl_weight: float = 0.1
    mode: Literal["dft_kl", "sft_kl"] = "dft_kl"

    name = "asft"
    frozen = True
    about = About(
        sentence="DFT or nll plus the KL divergence from the model training started from.",
        needs="nothing; a second copy of the model when all weights are trained",
        cost="one more forward pass a batch",
        avoid="a start model that is far from what should be learnt",
    )

    def __post_init__(self) -> None:
        if not self.kl_weight >= 0:
            raise RecipeError(f"asft: kl_weight={self.kl_weight}: expected a number >= 0")

    def cost(self, terms: Mapping[str, Any]) -> Any:
        """See `Objective`."""
        nll = terms["nll"]
        near = dynamic(nll) if self.mode == "dft_kl" else nll
        return near + self.kl_weight * terms["kl"]
