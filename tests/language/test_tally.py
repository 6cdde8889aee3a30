"""What is counted as read is what the layers of the model see."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tamis.language.forward import Engine, Pass
from tamis.language.generate import greedy
from tamis.language.load import load_model
from tamis.language.tally import counted
from tamis.recipe import Model


@pytest.fixture
def lm(tiny_lm: Callable[..., Path]) -> Model:
    return Model(path=str(tiny_lm()), prompt_style="chat")


def test_passes_and_tokens_are_those_that_reach_the_first_layer(lm: Model) -> None:
    engine = Engine(lm, "cpu")
    rng = np.random.default_rng(0)
    # Of unlike beginnings, so that nothing is shared; one without a target is not read.
    passes = [Pass(list(rng.integers(9, 200, n)), np.arange(1, n)) for n in (3, 17, 40, 9, 22)]
    passes.append(Pass([1, 2, 3], np.array([], dtype=np.int64)))
    seen = {"rows": 0, "tokens": 0}

    def watch(_: object, args: tuple[object, ...], given: dict[str, torch.Tensor]) -> None:
        seen["rows"] += len(given["input_ids"])
        seen["tokens"] += int(given["attention_mask"].sum())

    hook = engine.network.backbone.register_forward_pre_hook(watch, with_kwargs=True)
    with counted() as read:
        engine.logprobs(passes)
    hook.remove()
    assert (read.passes, read.tokens) == (seen["rows"], seen["tokens"]) == (5, 2 + 16 + 39 + 8 + 21)
    assert read.written == 0


def test_what_is_written_is_counted_apart(lm: Model) -> None:
    model = load_model(lm, "cpu")
    with counted() as read:
        made = greedy(
            model, [[9, 10], [11, 12, 13]], stops=[0], max_new_tokens=5, advance=lambda n: None
        )
    assert (read.passes, read.tokens, read.written) == (2, 5, sum(map(len, made)))


def test_counting_ends_with_its_block_and_may_be_nested(lm: Model) -> None:
    engine = Engine(lm, "cpu")
    one = [Pass([5, 6, 7], np.array([1, 2]))]
    with counted() as outer:
        engine.logprobs(one)
        with counted() as inner:
            engine.logprobs(one)
    engine.logprobs(one)
    assert (outer.passes, inner.passes) == (2, 1)
