"""What does not fit into the memory of a GPU runs in smaller batches, with the same results."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tamis.errors import TamisError
from tamis.language.entail import Entailment
from tamis.language.forward import Engine
from tamis.language.generate import greedy
from tamis.language.load import load_model
from tamis.language.sample import Sampled, sample
from tamis.recipe import Model

Cramped = Callable[..., list[int]]
PROMPTS = [[*(9, 20, 31, 42, 53)[: 1 + i % 5], 60 + i] for i in range(12)]


def fell_back(asked: list[int], most: int) -> bool:
    """Whether something did not fit, and nothing of that size was tried after it."""
    failed = [size for size in asked if size > most]
    return bool(failed) and failed == sorted(set(failed), reverse=True)


def test_sampled_answers(engine: Callable[..., Engine], folder: Path, cramped: Cramped) -> None:
    runner = engine(folder)

    def drawn(count: int) -> list[list[Sampled]]:
        names = [str(i) for i in range(len(PROMPTS))]
        return sample(runner, PROMPTS, names, count=count, stops=[0], max_new_tokens=5,
                      temperature=1.0, top_p=0.9, seed=0, advance=lambda _: None)  # fmt: skip

    whole = drawn(3)
    asked = cramped(runner.network.backbone, 20)
    assert drawn(3) == whole
    assert fell_back(asked, 20)
    cramped(runner.network.backbone, 0)
    with pytest.raises(TamisError, match="does not fit into GPU memory"):
        drawn(1)


def test_greedy_answers(folder: Path, cramped: Cramped) -> None:
    model = load_model(Model(path=str(folder), prompt_style="plain"), "cpu")
    done: list[int] = []

    def continued() -> list[list[int]]:
        return greedy(model, PROMPTS, stops=[0], max_new_tokens=5, advance=done.append)

    whole = continued()
    asked = cramped(model, 20)
    assert continued() == whole
    assert fell_back(asked, 20)
    assert sum(done) == 2 * len(PROMPTS)


def test_inference(nli: Path, cramped: Cramped) -> None:
    pairs = [(f"It is {i}." * (1 + i % 3), f"It is {i + 1}.") for i in range(9)]
    whole, _ = Entailment(str(nli), "cpu").contradicted(pairs)
    classifier = Entailment(str(nli), "cpu")
    asked = cramped(classifier._loaded[1], 70)
    found, _ = classifier.contradicted(pairs)
    np.testing.assert_allclose(found, whole, atol=1e-6)
    assert fell_back(asked, 70)
    asked.clear()
    classifier.contradicted(pairs)
    assert max(asked) <= 70  # what did not fit is not tried again
