"""Finding the parts of a model that methods train or leave: its blocks and linear layers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from tamis.errors import RecipeError
from tamis.trainer.methods.adapter import layers


def blocks(lm: Any) -> dict[str, Any]:
    """The transformer layers by name, from the embeddings up.

    Raises `RecipeError` for a model that does not hold as many as its configuration says.
    """
    import torch

    wanted = lm.config.get_text_config().num_hidden_layers
    for name, module in lm.named_modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == wanted:
            return {f"{name}.{i}": block for i, block in enumerate(module)}
    raise RecipeError(
        f"no list of {wanted} layers was found in {type(lm).__name__}: the method needs to tell "
        "layers apart; use method: full or lora"
    )


def linears(lm: Any, wanted: str | Sequence[str] = "all-linear") -> dict[str, Any]:
    """Linear layers by name, chosen as peft chooses them; never the output layer.

    `wanted`: all-linear, a pattern for whole names, or a list of last parts of names. Raises
    `RecipeError` when there are none.
    """
    import re

    import torch

    chosen, head = layers(lm, wanted), lm.get_output_embeddings()

    def match(name: str) -> bool:
        if isinstance(chosen, str):
            return re.fullmatch(chosen, name) is not None
        return any(name == end or name.endswith(f".{end}") for end in chosen)

    found = {
        name: module
        for name, module in lm.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head and match(name)
    }
    if not found:
        raise RecipeError(f"tune.options.targets {wanted!r}: no linear layer has such a name")
    return found


def whole_weights(name: str, instead: str = "method: lora") -> None:
    """Raise `RecipeError` where weights are cut into shares of processes: the method looks at whole
    matrices, or changes what of them is trained."""
    if kind := sharded():
        raise RecipeError(
            f"{name} needs whole weights in every process, and {kind} cuts them: use ddp, or "
            f"{instead}"
        )


def sharded() -> str | None:
    """What cuts weights into shares of processes: FSDP or ZeRO, as accelerate was told; or None."""
    for variable, kind in (("ACCELERATE_USE_FSDP", "FSDP"), ("ACCELERATE_USE_DEEPSPEED", "ZeRO")):
        if os.environ.get(variable, "").lower() in {"1", "true"}:
            return kind
    return None
