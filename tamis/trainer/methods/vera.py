"""VeRA: one random pair of matrices for all layers, and two learnt vectors a layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tamis.selectors.base import About
from tamis.trainer.methods.adapter import Adapter, layers
from tamis.trainer.methods.base import Context


@dataclass
class Vera(Adapter):
    """W + diag(b) B diag(d) A with A and B random, frozen and shared (arXiv 2310.11454), by peft.

    A and B are drawn from the run's seed and saved with the adapter. d begins at `start`, b at 0.
    """

    name = "vera"
    about = About(
        sentence="Two vectors a layer around random matrices that all layers share.",
        needs="nothing",
        cost="rank + outputs of a layer trained; two products more a layer",
        avoid="when the time of a step counts more than the size of the adapter",
    )
    source = "arXiv 2310.11454"
    learning_rate = 4e-3

    rank: int = 256
    dropout: float = 0.0
    targets: str | tuple[str, ...] = "all-linear"
    start: float = 0.1

    def config(self, lm: Any, context: Context) -> Any:
        """See `Adapter`."""
        from peft import TaskType, VeraConfig

        return VeraConfig(
            task_type=TaskType.CAUSAL_LM,
            r=self.rank,
            vera_dropout=self.dropout,
            target_modules=layers(lm, self.targets),
            projection_prng_key=context.seed % 2**31,
            d_initial=self.start,
        )
