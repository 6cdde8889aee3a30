"""Full fine-tuning: every parameter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tamis.selectors.base import About
from tamis.trainer.methods.base import Context, Method


@dataclass
class Full(Method):
    """All parameters of the model.

    The default rate is the upper end of what papers use for full fine-tuning.
    """

    name = "full"
    about = About(
        sentence="Every parameter.",
        needs="nothing",
        cost="gradients and two moments of every parameter",
        avoid="small memory, or little data and much to forget",
    )
    source = "common practice"
    kind = "full"
    learning_rate = 2e-5

    def prepare(self, lm: Any, context: Context) -> Any:
        """See `Method`."""
        return lm.requires_grad_(True)
