"""The mean -log p of the trained tokens."""

from __future__ import annotations

from dataclasses import dataclass

from tamis.selectors.base import About
from tamis.trainer.objectives.base import Objective


@dataclass(frozen=True)
class Sft(Objective):
    """loss = sum_s w_s sum_t nll_t / sum_s w_s |T_s| over the rows s of a step: every token counts
    alike, so a long answer counts more than a short one."""

    name = "sft"
    about = About(
        sentence="The weighted mean -log p of the tokens of the answers.",
        needs="nothing",
        cost="none beyond the forward pass",
        avoid="answers of very different lengths of which each should count alike",
    )
