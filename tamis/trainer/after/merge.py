"""An adapter made part of the weights it was trained beside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tamis.errors import RecipeError
from tamis.language.load import quiet
from tamis.trainer.after import folders


def merge(folder: Path, out: Path, *, base: str | None = None) -> dict[str, Any]:
    """Write base plus adapter as a plain transformers model in float32; returns facts.

    `base` is a folder or hub id, by default the one the adapter names. Logits are those of the
    adapter up to rounding. Memory: the model once. Raises `RecipeError` for full weights, for
    adapters that are no change of weights (virtual tokens), and when `out` exists.
    """
    if not folders.is_adapter(folder):
        raise RecipeError(f"{folder} holds full weights: there is no adapter to merge")
    with folders.made(out) as partial, quiet():
        lm = merged(folder, base)
        lm.save_pretrained(partial)
        folders.copy_rest(folder, partial)
    size = sum(p.numel() for p in lm.parameters())
    return {"model": str(out), "base": folders.base_of(folder, base), "parameters": size}


def merged(folder: Path, base: str | None = None) -> Any:
    """The model in `folder`, on the CPU in float32: full weights, or a base with its adapter merged
    into it."""
    from peft import PeftModel

    if not folders.is_adapter(folder):
        return folders.load(str(folder))
    wrapped = PeftModel.from_pretrained(folders.load(folders.base_of(folder, base)), folder)
    if not hasattr(wrapped.base_model, "merge_and_unload"):
        kind = folders.adapter_config(folder)["peft_type"]
        raise RecipeError(f"{folder} is {kind}, which changes no weights: it cannot be merged")
    return wrapped.merge_and_unload()
