"""IA3: activations scaled by learnt vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tamis.selectors.base import About
from tamis.trainer.methods.adapter import Adapter
from tamis.trainer.methods.base import Context


@dataclass
class Ia3(Adapter):
    """A factor for every output of the key and value layers and every input of the last layer of
    the MLP (arXiv 2205.05638), by peft. Factors begin at 1.

    `targets` are all layers that get factors, `inputs` those of them whose inputs are scaled; empty
    ones are what peft knows of the architecture.
    """

    name = "ia3"
    about = About(
        sentence="A factor for each key, value and inner activation.",
        needs="an architecture peft knows, or targets",
        cost="a few thousand numbers",
        avoid="learning what the model does not know yet",
    )
    source = "arXiv 2205.05638"
    learning_rate = 3e-3

    targets: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()

    def config(self, lm: Any, context: Context) -> Any:
        """See `Adapter`."""
        from peft import IA3Config, TaskType

        return IA3Config(
            task_type=TaskType.CAUSAL_LM,
            target_modules=list(self.targets) or None,
            feedforward_modules=(list(self.inputs) if self.targets else None),
        )
