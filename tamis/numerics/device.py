"""Where tensors live: the one place that chooses a device."""

from __future__ import annotations

import sys
from pathlib import Path
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
    if device == "auto" and "torch" not in sys.modules and not _driver():
        return "cpu"  # known without the seconds that importing torch takes
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if device == "cuda":
        raise TamisError(
            "device cuda was asked for and torch sees no CUDA device: use device auto or cpu, "
            "or install a CUDA build of torch"
        )
    return "cpu"


def _driver() -> bool:
    """Whether a driver that torch could use as CUDA may be there: NVIDIA, its WSL form, or ROCm."""
    if sys.platform != "linux":
        return True
    return any(Path("/dev", name).exists() for name in ("nvidiactl", "dxg", "kfd"))
