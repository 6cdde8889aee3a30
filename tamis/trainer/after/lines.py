"""LiNeS: what tuning changed is scaled down in early layers, to keep what the base knew."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tamis.errors import RecipeError
from tamis.language.load import quiet
from tamis.trainer.after import folders
from tamis.trainer.methods.parts import blocks


def coefficient(alpha: float, beta: float, layer: int | None, layers: int) -> float:
    """alpha + beta i / (N - 1) of layer i of N (the last where N is 1), alpha outside of layers."""
    if layer is None:
        return alpha
    return alpha + beta * (layer / (layers - 1) if layers > 1 else 1.0)


def layer_of(name: str, prefix: str) -> int | None:
    """The layer that a tensor belongs to, where layers are called `prefix`.0, `prefix`.1, ...; None
    outside of layers. Numbers further inside a layer, such as those of experts, do not count."""
    head, inside, rest = name.partition(f"{prefix}.")
    number = rest.partition(".")[0]
    return int(number) if inside and not head and number.isdigit() else None


def lines(
    folder: Path, out: Path, *, base: str, alpha: float, beta: float, head_last: bool = False
) -> dict[str, Any]:
    """Write base + c (tuned - base), c of each tensor by `coefficient`; returns facts.

    Full weights stay full weights; of a LoRA adapter the B matrices are scaled, which is the same
    and stays an adapter. Embeddings, final norm and head have c = alpha, once where they share
    their tensor. float32. Memory: two models, or one adapter.

    Source: Wang et al., "LiNeS", 2024 (arXiv 2410.17146). Their code takes the layer from any
    number in a tensor's name and divides by zero for a single layer.
    """
    layers, prefix, head = _layers(base)
    if head_last and head is None:
        raise RecipeError(
            f"the head of {base} shares its weights with the embeddings, which keep alpha: leave "
            "--head-last out"
        )

    def scale(name: str) -> float:
        last = head_last and name.rpartition(".")[0] == head
        return coefficient(alpha, beta, layers - 1 if last else layer_of(name, prefix), layers)

    adapter = folders.is_adapter(folder)
    with folders.made(out) as partial, quiet():
        (_scale_adapter if adapter else _scale_weights)(folder, base, scale, partial)
        folders.copy_rest(folder, partial)
    return {
        "model": str(out),
        "base": base,
        "layers": layers,
        "first": coefficient(alpha, beta, 0, layers),
        "last": coefficient(alpha, beta, layers - 1, layers),
    }


def _scale_adapter(folder: Path, base: str, scale: Callable[[str], float], to: Path) -> None:
    config, tensors = folders.lora(folder)
    for name, tensor in tensors.items():
        if name.endswith(".lora_B.weight"):
            tensors[name] = tensor * scale(name.removeprefix("base_model.model."))
    folders.save_lora(config, tensors, to)


def _scale_weights(folder: Path, base: str, scale: Callable[[str], float], to: Path) -> None:
    import torch

    tuned, start = folders.load(str(folder)), dict(folders.load(base).named_parameters())
    shapes = {name: p.shape for name, p in tuned.named_parameters()}
    if shapes != {name: p.shape for name, p in start.items()}:
        raise RecipeError(
            f"{folder} and {base} do not have the same tensors: name the base it was tuned from"
        )
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            parameter.copy_(start[name] + scale(name) * (parameter - start[name]))
    tuned.save_pretrained(to)


def _layers(base: str) -> tuple[int, str, str | None]:
    """How many layers a model has, what they are called, and the head, where it has weights of its
    own; reads the config alone."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        lm = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base))
    names, out = list(blocks(lm)), lm.get_output_embeddings()
    tied = lm.config.get_text_config().tie_word_embeddings
    head = None if tied else next((n for n, m in lm.named_modules() if m is out), None)
    return len(names), names[0].rpartition(".")[0], head
