"""SHiRA: a few entries of every weight matrix, drawn at random."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tamis.selectors.base import About
from tamis.trainer.methods.adapter import Adapter, layers
from tamis.trainer.methods.base import Context


@dataclass
class Shira(Adapter):
    """rank x (inputs + outputs) entries of each matrix, as many as a LoRA of that rank, drawn at
    random from the run's seed; the others stay (arXiv 2406.13175), by peft."""

    name = "shira"
    about = About(
        sentence="Random entries of every matrix, as many as a LoRA would train.",
        needs="nothing",
        cost="moments of the entries alone; a dense gradient of each layer in turn",
        avoid="models whose dense gradients do not fit",
    )
    source = "arXiv 2406.13175"
    learning_rate = 2e-4

    rank: int = 16
    targets: str | tuple[str, ...] = "all-linear"

    def config(self, lm: Any, context: Context) -> Any:
        """See `Adapter`."""
        from peft import ShiraConfig, TaskType

        return ShiraConfig(
            task_type=TaskType.CAUSAL_LM,
            r=self.rank,
            random_seed=context.seed % 2**31,
            target_modules=layers(lm, self.targets),
        )
