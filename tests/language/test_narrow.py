"""The last feed-forward part reads only what is wanted, and no value changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from tamis.language.forward import LOGPROB, Engine, Pass
from tamis.language.narrow import _last_feed_forward, narrow


def some_passes(n: int) -> list[Pass]:
    rng = np.random.default_rng(n)
    made = []
    for _ in range(n):
        length = int(rng.integers(20, 60))
        made.append(Pass(rng.integers(0, 262, size=length).tolist(), np.arange(length - 4, length)))
    return made


def read(runner: Engine) -> list[int]:
    seen: list[int] = []
    part = _last_feed_forward(runner.network.backbone)
    part.act_fn.register_forward_hook(lambda m, args, out: seen.append(args[0][..., 0].numel()))
    return seen


@pytest.mark.parametrize("threads", [1, 3])
def test_it_reads_the_wanted_tokens_and_gives_what_all_would(
    engine: Callable[..., Engine], folder: Path, threads: int
) -> None:
    passes = some_passes(64)
    runner = engine(folder)
    seen = read(runner)
    whole = runner.run(passes, frozenset({"hidden_mean"}))
    assert sum(seen) >= sum(len(p.ids) for p in passes)
    seen.clear()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = runner.run(passes, LOGPROB)
    finally:
        torch.set_num_threads(before)
    assert sum(seen) == sum(len(p.targets) for p in passes)
    for a, b in zip(found, whole, strict=True):
        np.testing.assert_allclose(a["logprob"], b["logprob"], atol=1e-5)


def test_states_are_whole_after_a_pass_that_failed(
    engine: Callable[..., Engine], folder: Path
) -> None:
    runner = engine(folder)
    net, ids = runner.network, torch.arange(10)[None]
    expected = net.backbone(input_ids=ids).last_hidden_state
    with pytest.raises(IndexError), net.last.only(torch.tensor([0]), torch.tensor([99])):
        net.backbone(input_ids=ids)
    assert torch.equal(net.backbone(input_ids=ids).last_hidden_state, expected)


def test_a_part_that_looks_at_other_tokens_is_left_as_it_is(folder: Path) -> None:
    class Mixes(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + x.mean(dim=1, keepdim=True)

    backbone = AutoModelForCausalLM.from_pretrained(folder).eval().base_model
    backbone.layers[-1].mlp = Mixes()
    ids = torch.arange(8)[None]
    with torch.no_grad():
        expected = backbone(input_ids=ids).last_hidden_state
        assert narrow(backbone, ids) is None
        assert torch.equal(backbone(input_ids=ids).last_hidden_state, expected)
    assert not backbone.layers[-1].mlp._forward_hooks
