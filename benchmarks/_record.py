"""How every benchmark tells its result: one JSON line, with the machine and its load."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

Result = TypeVar("Result")


def timed(call: Callable[[], Result], device: str = "cpu") -> tuple[Result, float]:
    """What a call gives, and the seconds it took, waiting for the device."""
    _settle(device)
    start = time.perf_counter()
    result = call()
    _settle(device)
    return result, time.perf_counter() - start


def _settle(device: str) -> None:
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def times(
    what: str, ours: float, against: str, rival: float, *, at_least: float, unit: str = "s"
) -> dict[str, Any]:
    """A line of the table: how many times less than a rival ours takes, and the aim for it."""
    ratio = rival / ours
    return {
        "what": what,
        "ours": ours,
        "against": against,
        "rival": rival,
        "unit": unit,
        "ratio": round(ratio, 2),
        "aim": f">= {at_least:g}",
        "met": ratio >= at_least,
    }


def within(
    what: str, ours: float, against: str, floor: float, *, at_most: float, unit: str = "s"
) -> dict[str, Any]:
    """A line of the table: ours as a multiple of a floor or a limit, and the most it should be."""
    ratio = ours / floor
    line = times(what, ours, against, floor, at_least=0, unit=unit)
    return {**line, "ratio": round(ratio, 2), "aim": f"<= {at_most:g}", "met": ratio <= at_most}


def surroundings(device: str = "cpu") -> dict[str, Any]:
    """What torch runs on, and the load of the machine before anything is measured."""
    import torch

    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "load_before": round(os.getloadavg()[0], 2),
        "torch": torch.__version__,
    }


def record(result: dict[str, Any], out: Path | None) -> None:
    """Print the result with the machine and its load now, and write it to `out` if given.

    `lines` of the result are what the table shows: see `times` and `within`.
    """
    versions = f"Python {platform.python_version()}, numpy {np.__version__}"
    told = {
        **result,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {versions}",
        "load": [round(load, 2) for load in os.getloadavg()],
    }
    line = json.dumps(told)
    print(line)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(line + "\n", encoding="utf-8")
