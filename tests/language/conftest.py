"""A tiny model, an engine over it, and sequences for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tamis.language.forward import Engine, Pass
from tamis.recipe import Model


@pytest.fixture(scope="module")
def folder(tiny_lm: Callable[..., Path]) -> Path:
    """The folder of a tiny language model."""
    return tiny_lm()


@pytest.fixture(scope="module")
def plain(folder: Path) -> Any:
    """The tiny model as transformers loads it."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture(scope="session")
def engine() -> Callable[..., Engine]:
    """Make an engine over the model of a folder."""

    def make(folder: Path, budget: int | None = None, **given: Any) -> Engine:
        return Engine(Model(path=str(folder), prompt_style="plain", **given), "cpu", budget=budget)

    return make


@pytest.fixture(scope="session")
def some_passes() -> Callable[..., list[Pass]]:
    """Draw sequences of tokens with some targets each, or none."""

    def draw(n: int, seed: int = 0) -> list[Pass]:
        rng = np.random.default_rng(seed)
        made = []
        for _ in range(n):
            length = int(rng.integers(2, 60))
            count = int(rng.integers(0, length))
            targets = np.sort(rng.choice(np.arange(1, length), size=count, replace=False))
            made.append(Pass(rng.integers(0, 262, size=length).tolist(), targets))
        return made

    return draw
