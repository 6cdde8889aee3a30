"""Everything one pass can give, against full logits and states of one row at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from tamis.language import network as networks
from tamis.language.forward import Engine, Pass
from tamis.language.network import WholeNetwork, token_parts
from tamis.numerics.logits import label_scores

PARTS = frozenset({"logprob", "entropy", "el2n", "hidden_mean", "hidden_last"})


def one_by_one(model: torch.nn.Module, p: Pass) -> dict[str, np.ndarray]:
    """The definition: all logits and states of one row, without padding."""
    with torch.no_grad():
        out = model(input_ids=torch.tensor([p.ids]), output_hidden_states=True)
    states = out.hidden_states[-1][0].numpy().astype(np.float64)
    found = label_scores(out.logits[0].numpy()[p.targets - 1], np.array(p.ids)[p.targets])
    tokens = {"logprob": found.logprob, "entropy": found.entropy, "el2n": found.el2n}
    return {**tokens, "hidden_mean": states.mean(axis=0), "hidden_last": states[-1]}


@pytest.mark.parametrize("budget", [1, 100, 100_000])
@pytest.mark.parametrize("whole", [False, True])
def test_all_parts_equal_a_loop_over_rows(
    engine: Callable[..., Engine],
    some_passes: Callable[..., list[Pass]],
    folder: Path,
    plain: torch.nn.Module,
    budget: int,
    whole: bool,
) -> None:
    passes = some_passes(25)
    runner = engine(folder, budget)
    if whole:
        runner.network = WholeNetwork(plain)
    for found, p in zip(runner.run(passes, PARTS), passes, strict=True):
        assert set(found) == PARTS
        for part, expected in one_by_one(plain, p).items():
            np.testing.assert_allclose(found[part], expected, atol=2e-5, err_msg=part)
    assert runner.passes_run == len(passes)


def test_each_part_alone_has_the_values_it_has_among_all(
    engine: Callable[..., Engine], some_passes: Callable[..., list[Pass]], folder: Path
) -> None:
    passes = some_passes(25, seed=1)
    together = engine(folder).run(passes, PARTS)
    for part in PARTS:
        alone = engine(folder).run(passes, frozenset({part}))
        for values, among, p in zip(alone, together, passes, strict=True):
            assert set(values) == {"logprob", part}
            np.testing.assert_allclose(values[part], among[part], rtol=1e-6, atol=2e-6)
            assert len(values["logprob"]) == len(p.targets)


def test_small_chunks_of_logits_give_the_same(
    engine: Callable[..., Engine],
    some_passes: Callable[..., list[Pass]],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No more logits than a chunk exist at once."""
    passes = some_passes(20, seed=2)
    expected = engine(folder).run(passes, PARTS)
    monkeypatch.setitem(networks._CHUNK_VALUES, "cpu", 3 * 262)
    runner = engine(folder)
    sizes: list[int] = []
    runner.network.head.register_forward_hook(lambda m, args, out: sizes.append(len(out)))
    for found, wanted in zip(runner.run(passes, PARTS), expected, strict=True):
        for part in PARTS:
            np.testing.assert_allclose(found[part], wanted[part], rtol=1e-6, atol=2e-6)
    assert max(sizes) == 3


def test_sure_tokens_have_exact_small_el2n() -> None:
    """Next to 0 the sum of squares would cancel."""
    logits = np.array([[18.0, 0, 0, 1], [0, 18.0, 0, 0], [0, -np.inf, 0, -np.inf]], np.float32)
    tokens = np.array([0, 0, 1])
    found = token_parts(torch.from_numpy(logits), torch.from_numpy(tokens), PARTS)
    expected = label_scores(logits, tokens)
    np.testing.assert_allclose(found["el2n"], expected.el2n, rtol=1e-5)
    np.testing.assert_allclose(found["entropy"], expected.entropy, rtol=1e-5, atol=1e-6)


def test_states_cover_what_stands_behind_the_last_target(
    engine: Callable[..., Engine], folder: Path
) -> None:
    ids = list(range(10, 30))
    (short, longer, none) = engine(folder).run(
        [Pass(ids[:12], np.array([5])), Pass(ids, np.array([5])), Pass(ids, np.array([], int))],
        frozenset({"hidden_last"}),
    )
    np.testing.assert_allclose(short["logprob"], longer["logprob"], atol=1e-5)
    assert np.abs(short["hidden_last"] - longer["hidden_last"]).max() > 1e-2
    np.testing.assert_allclose(none["hidden_last"], longer["hidden_last"], atol=1e-5)
    assert len(none["logprob"]) == 0


@pytest.mark.model
def test_the_real_model_gives_what_transformers_gives(
    engine: Callable[..., Engine], base_model: Path
) -> None:
    rng = np.random.default_rng(3)
    passes = [
        Pass(rng.integers(0, 8192, size=n).tolist(), np.arange(n // 2, n)) for n in (6, 20, 31, 9)
    ]
    plain = AutoModelForCausalLM.from_pretrained(base_model, dtype=torch.float32).eval()
    for found, p in zip(engine(base_model).run(passes, PARTS), passes, strict=True):
        for part, expected in one_by_one(plain, p).items():
            np.testing.assert_allclose(found[part], expected, rtol=1e-5, atol=1e-5, err_msg=part)
