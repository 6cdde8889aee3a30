"""NoiseFiT: the answer is learnt clean, and should not change when hidden states are noisy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tamis.errors import RecipeError
from tamis.selectors.base import About
from tamis.trainer.objectives.base import Objective


@dataclass(frozen=True)
class NoiseFit(Objective):
    """cost_t = share nll_t + (1 - share) (KL(q||p1) + KL(q||p2)) / 2 + consistency KL(p2||p1),
    with q the distribution of a pass without noise at `temperature`, p1 and p2 those of two passes
    with Gaussian noise on the outputs of some transformer layers. nll is that of the clean pass,
    and gradients go through all three.

    The `layers` of highest signal-to-noise ratio (`highest: false`: lowest) on the first eight rows
    get noise, chosen once, before training. A value h of a token is moved by a standard deviation
    of std(row) `std` mad exp(-0.1 |h - median| / mad) f, with median and mad (the median distance
    from it) over the token's values and f = exp(its variance / mean variance of the row), at
    most 5. Costs two forward and two backward passes more.

    Source: Khadangi et al., "Noise Augmented Fine-Tuning for Mitigating Hallucinations in Large
    Language Models", 2025 (arXiv 2504.03302). Their code takes std and mean variance over the
    whole batch, padding included, so that noise hangs on how rows are batched; multiplies by `std`
    twice while training, and once where it chooses layers; draws from the global generator; and
    lets gradients through the size of the noise.
    """

    share: float = 0.5
    temperature: float = 1.0
    consistency: float = 0.1
    std: float = 0.1
    layers: int = 3
    highest: bool = True

    name = "noisefit"
    noisy = True
    about = About(
        sentence="-log p and the distance from it under noise on hidden states of some layers.",
        needs="a method that takes packed rows and steps by gradients",
        cost="three times the passes, and their activations at once",
        avoid="little memory or time; noise: costs nothing",
    )

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise RecipeError(f"noisefit: share={self.share}: expected 0 to 1")
        if not (self.temperature > 0 and self.consistency >= 0 and self.std > 0):
            raise RecipeError(
                "noisefit: temperature and std must be above 0, consistency 0 or more"
            )
        if self.layers < 1:
            raise RecipeError(f"noisefit: layers={self.layers}: expected at least 1")

    def cost(self, terms: Mapping[str, Any]) -> Any:
        """See `Objective`."""
        near = self.share * terms["nll"] + (1 - self.share) * terms["soft"]
        return near + self.consistency * terms["consistency"]
