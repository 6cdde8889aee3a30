"""Sequences that begin alike: the beginning is read once a batch, and no value changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from tamis.language.forward import Engine, Pass
from tamis.language.prefix import LEAST, reads_on, shared
from tamis.numerics.logits import label_scores

PARTS = frozenset({"logprob", "entropy", "el2n"})


def behind(prompts: list[list[int]], n: int, seed: int = 0) -> list[Pass]:
    """Rows that begin with one of the prompts, and a few that begin with none."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(n):
        start = (*prompts, [])[i % (len(prompts) + 1)]
        ids = [*start, *rng.integers(0, 262, size=int(rng.integers(3, 40))).tolist()]
        first = max(len(start), 1) + 1
        count = int(rng.integers(1, len(ids) - first + 1))
        targets = np.sort(rng.choice(np.arange(first, len(ids)), size=count, replace=False))
        made.append(Pass(ids, targets))
    return made


def tokens_read(runner: Engine) -> list[int]:
    seen: list[int] = []
    embedding = runner.network.backbone.get_input_embeddings()
    embedding.register_forward_hook(lambda m, args, out: seen.append(args[0].numel()))
    return seen


@pytest.mark.parametrize("budget", [30, 200, 100_000])
def test_equal_to_a_loop_and_fewer_tokens_read(
    engine: Callable[..., Engine], folder: Path, budget: int
) -> None:
    rng = np.random.default_rng(1)
    passes = behind([rng.integers(0, 262, size=n).tolist() for n in (50, 80)], 36)
    runner = engine(folder, budget)
    assert runner.network.reads_on
    seen = tokens_read(runner)
    found = runner.run(passes, PARTS)
    read = sum(seen)
    runner.network = type(runner.network)(
        runner.network.backbone, runner.network.head, runner.vocabulary, reads_on=False
    )
    seen.clear()
    runner.run(passes, PARTS)
    if budget > 100:
        assert read < 0.7 * sum(seen)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for values, p in zip(found, passes, strict=True):
        with torch.no_grad():
            logits = plain(input_ids=torch.tensor([p.ids])).logits[0].numpy()
        expected = label_scores(logits[p.targets - 1], np.array(p.ids)[p.targets])
        for part in PARTS:
            np.testing.assert_allclose(values[part], getattr(expected, part), atol=1e-5)


def test_what_is_shared_ends_before_the_first_prediction() -> None:
    ids = list(range(100))
    ends = [np.array([70, 90]), np.array([41]), np.array([99]), np.array([60])]
    group, length = shared([Pass(ids, targets) for targets in ends])
    assert group.tolist() == [1] * 4
    assert length.tolist() == [40] * 4
    other = [Pass([*ids[:30], *ids[:i]], np.array([30 + i - 1])) for i in range(9, 14)]
    # They go on alike for a while; the first prediction of the shortest is the limit.
    assert shared(other)[1].tolist() == [37] * 5


def test_too_few_or_too_short_share_nothing() -> None:
    ids = list(range(60))
    assert not shared([Pass(ids, np.array([50]))] * 3)[1].any()
    assert not shared([Pass(ids, np.array([LEAST]))] * 9)[1].any()
    assert not shared([Pass([i, *ids], np.array([50])) for i in range(9)])[1].any()
    assert not shared([Pass(ids, np.array([], int))] * 9)[1].any()
    nothing = shared([])
    assert [len(values) for values in nothing] == [0, 0]


def test_models_without_such_a_cache_are_seen(engine: Callable[..., Engine], folder: Path) -> None:
    backbone = engine(folder).network.backbone
    ids = torch.arange(8)[None]

    class Forgetful:
        def __call__(self, **given: object) -> object:
            given.pop("past_key_values", None)
            given.pop("attention_mask", None)  # of all tokens
            return backbone(**given)

    class Without:
        def __call__(self, **given: object) -> object:
            out = backbone(**given)
            out.past_key_values = None
            return out

    class Window:
        def __call__(self, **given: object) -> object:
            out = backbone(**given)
            if out.past_key_values is not None:
                out.past_key_values.layers[0] = object()
            return out

    with torch.no_grad():
        assert reads_on(backbone, ids)
        assert not reads_on(Forgetful(), ids)
        assert not reads_on(Without(), ids)
        assert not reads_on(Window(), ids)
