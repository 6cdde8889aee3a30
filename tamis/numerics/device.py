"""Where tensors live: the one place that chooses a device."""

from __future__ import annotations

from typing import Literal

from tamis.errors import TamisError

Device = Literal["cpu", "cuda"]


def resolve(device: str) -> Device:
    """Turn `auto`, `cpu` or `cuda` into the device to use.

    `auto` takes a CUDA device when torch sees one. Asking for `cuda` where there is none raises
    `TamisError`: work is never moved to the CPU in silence.
    """
    if device == "cpu":
        return "cpu"
    if device not in ("auto", "cuda"):
        raise TamisError(f"device {device!r} is not known: expected auto, cpu or cuda")
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if device == "cuda":
        raise TamisError(
            "device cuda was asked for and torch sees no CUDA device: use device auto or cpu, "
            "or install a CUDA build of torch"
        )
    return "cpu"
