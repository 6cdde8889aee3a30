"""What the methods share that peft carries out."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from tamis.errors import RecipeError
from tamis.trainer.methods.base import Context, Method


class Adapter(Method):
    """A method of peft: its configuration says everything."""

    kind = "adapter"

    def config(self, lm: Any, context: Context) -> Any:
        """The `PeftConfig` for this model."""
        raise NotImplementedError

    def prepare(self, lm: Any, context: Context) -> Any:
        """See `Method`."""
        return wrapped(self.name, lm, lambda: self.config(lm, context))


def wrapped(name: str, lm: Any, config: Any) -> Any:
    """The model with the adapter of `config()`; what peft refuses is told as a `RecipeError`."""
    from peft import get_peft_model

    try:
        with warnings.catch_warnings():
            # peft reads an attribute under the name it had before.
            warnings.simplefilter("ignore", FutureWarning)
            # Advice on loading for EVA, which is of no use to who runs a recipe.
            warnings.filterwarnings("ignore", message="lora with eva initialization")
            return get_peft_model(lm, config())
    except ValueError as error:
        raise RecipeError(f"tune.options of {name}: {str(error).splitlines()[0]}") from error


def layers(lm: Any, wanted: str | Sequence[str]) -> str | list[str]:
    """Names of layers for peft: `all-linear` as the last parts of the names of all linear layers
    but the output layer; another text is a pattern; a list stays one.

    Raises `RecipeError` for a list that names the output layer, which the loss never calls whole.
    """
    import torch

    head = lm.get_output_embeddings()
    outputs = {n.split(".")[-1] for n, m in lm.named_modules() if m is head}
    if wanted == "all-linear":
        linear = {
            n.split(".")[-1]
            for n, m in lm.named_modules()
            if isinstance(m, torch.nn.Linear) and m is not head
        }
        return sorted(linear)
    if not isinstance(wanted, str):
        if outputs & {name.split(".")[-1] for name in wanted}:
            raise RecipeError(
                f"tune.options.targets names the output layer {sorted(outputs)[0]!r}: the loss "
                "never calls that layer as a whole; leave it out"
            )
        return list(wanted)
    return wanted
