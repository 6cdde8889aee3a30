"""The engine against a plain forward pass of one row at a time."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tamis.errors import DataError, TamisError
from tamis.language import forward
from tamis.language.forward import Engine, Pass
from tamis.language.network import SplitNetwork, WholeNetwork, network
from tamis.recipe import Model


def test_on_a_cpu_the_linear_layers_are_packed(engine: Callable[..., Engine], folder: Path) -> None:
    net = engine(folder).network
    kinds = {type(m) for m in (*net.backbone.modules(), net.head)}
    assert any(issubclass(k, torch.nn.Linear) for k in kinds)
    assert torch.nn.Linear not in kinds


def one_by_one(model: torch.nn.Module, passes: list[Pass]) -> list[np.ndarray]:
    """Full logits of one row, all tokens, no padding: what the engine must equal."""
    found = []
    with torch.no_grad():
        for p in passes:
            ids = torch.tensor([p.ids])
            table = torch.log_softmax(model(input_ids=ids).logits[0].double(), dim=-1)
            found.append(np.array([float(table[t - 1, p.ids[t]]) for t in p.targets]))
    return found


@pytest.mark.parametrize("budget", [1, 40, 300, 100_000])
def test_equals_a_loop_over_rows(
    engine: Callable[..., Engine],
    some_passes: Callable[..., list[Pass]],
    folder: Path,
    plain: torch.nn.Module,
    budget: int,
) -> None:
    passes = some_passes(40)
    expected = one_by_one(plain, passes)
    for values, wanted, p in zip(
        engine(folder, budget).logprobs(passes), expected, passes, strict=True
    ):
        assert values.dtype == np.float64
        assert len(values) == len(p.targets)
        np.testing.assert_allclose(values, wanted, atol=1e-5)


def test_order_and_company_do_not_matter_and_a_repeat_is_bitwise_equal(
    engine: Callable[..., Engine], some_passes: Callable[..., list[Pass]], folder: Path
) -> None:
    passes = some_passes(30, seed=1)
    runner = engine(folder)
    first = runner.logprobs(passes)
    order = np.random.default_rng(2).permutation(len(passes))
    for i, values in zip(order, runner.logprobs([passes[i] for i in order]), strict=True):
        np.testing.assert_allclose(values, first[i], atol=1e-5)
    for values, again in zip(first, runner.logprobs(passes), strict=True):
        np.testing.assert_array_equal(values, again)


@pytest.mark.parametrize("fails", [False, True])
def test_threads_change_no_value_and_are_given_back(
    engine: Callable[..., Engine], some_passes: Callable[..., list[Pass]], folder: Path, fails: bool
) -> None:
    passes = some_passes(30, seed=6)
    runner = engine(folder, 200)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = runner.logprobs(passes)
        torch.set_num_threads(3)
        told: list[int] = []

        def done(rows: np.ndarray) -> None:
            told.append(torch.get_num_threads())
            if fails:
                raise KeyboardInterrupt

        if fails:
            with pytest.raises(KeyboardInterrupt):
                runner.logprobs(passes, done=done)
        else:
            for values, others in zip(runner.logprobs(passes, done=done), alone, strict=True):
                np.testing.assert_array_equal(values, others)
        assert set(told) == {1}
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_done_names_each_pass_with_targets_once(
    engine: Callable[..., Engine], some_passes: Callable[..., list[Pass]], folder: Path
) -> None:
    passes = some_passes(30, seed=3)
    told: list[int] = []
    engine(folder, 100).logprobs(passes, done=lambda rows: told.extend(rows.tolist()))
    assert sorted(told) == [i for i, p in enumerate(passes) if len(p.targets)]


def test_out_of_memory_halves_the_batch(
    engine: Callable[..., Engine],
    some_passes: Callable[..., list[Pass]],
    folder: Path,
    plain: torch.nn.Module,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    passes = some_passes(24, seed=4)
    runner = engine(folder, 100_000)
    whole, sizes = runner.network, []

    class Cramped:
        whole_logits = False
        reads_on = False

        def run(self, batch: object, parts: frozenset[str]) -> dict[str, torch.Tensor]:
            sizes.append(tuple(batch.ids.shape))
            if batch.ids.numel() > 150:
                raise torch.cuda.OutOfMemoryError("injected")
            return whole.run(batch, parts)

    monkeypatch.setitem(runner.__dict__, "network", Cramped())
    for values, wanted in zip(runner.logprobs(passes), one_by_one(plain, passes), strict=True):
        np.testing.assert_allclose(values, wanted, atol=1e-5)
    failed = len([s for s in sizes if s[0] * s[1] > 150])
    sizes.clear()
    runner.logprobs(passes)
    # What did not fit is not tried again.
    assert failed > 0
    assert not [s for s in sizes if s[0] > 1 and s[0] * s[1] > 150]


def test_a_row_that_never_fits_is_a_clear_error(
    engine: Callable[..., Engine], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = engine(folder)

    class Full:
        whole_logits = False
        reads_on = False

        def run(self, batch: object, parts: frozenset[str]) -> dict[str, torch.Tensor]:
            raise torch.cuda.OutOfMemoryError("injected")

    monkeypatch.setitem(runner.__dict__, "network", Full())
    with pytest.raises(TamisError, match="9 tokens does not fit"):
        runner.logprobs([Pass(list(range(10)), np.array([3, 9]))])


def test_no_logits_beyond_the_wanted_tokens(engine: Callable[..., Engine], folder: Path) -> None:
    """The head sees as many rows as there are targets, never batch x length."""
    runner = engine(folder)
    seen = []
    runner.network.head.register_forward_hook(lambda m, args, out: seen.append(out.shape))
    passes = [Pass(list(range(40)), np.array([38, 39])) for _ in range(5)]
    runner.logprobs(passes)
    assert sum(shape[0] for shape in seen) == 10
    assert all(len(shape) == 2 for shape in seen)


def test_models_with_more_behind_the_head_run_whole(
    engine: Callable[..., Engine],
    some_passes: Callable[..., list[Pass]],
    plain: torch.nn.Module,
    folder: Path,
) -> None:
    """Scaled logits must not be lost by taking backbone and head apart."""

    class Scaled(type(plain)):
        def forward(self, *args: object, **kwargs: object) -> object:
            out = super().forward(*args, **kwargs)
            out.logits = out.logits * 0.5
            return out

    scaled = Scaled(plain.config)
    scaled.load_state_dict(plain.state_dict())
    runner = engine(folder)
    assert isinstance(network(plain, 262), SplitNetwork)
    runner.network = network(scaled.eval(), 262)
    assert isinstance(runner.network, WholeNetwork)
    passes = some_passes(12, seed=5)
    for values, wanted in zip(runner.logprobs(passes), one_by_one(scaled, passes), strict=True):
        np.testing.assert_allclose(values, wanted, atol=1e-5)


@pytest.mark.parametrize("targets", [[0], [5], [2, 2], [3, 1]])
def test_targets_nothing_predicts_are_refused(targets: list[int]) -> None:
    with pytest.raises(DataError, match="targets"):
        Pass([1, 2, 3, 4, 5], np.array(targets))


def test_engines_of_one_model_share_its_weights(
    engine: Callable[..., Engine], folder: Path, tiny_lm: Callable[..., Path]
) -> None:
    first, second = engine(folder, 10), engine(folder)
    assert first.network is second.network
    assert engine(tiny_lm(seed=1)).network is not first.network
    known = id(first.network)
    del first, second
    assert not [n for n in forward._LOADED.values() if id(n) == known]


def test_nothing_to_do(engine: Callable[..., Engine], folder: Path) -> None:
    assert engine(folder).logprobs([]) == []


@pytest.mark.gpu
def test_a_gpu_gives_the_same_values(
    engine: Callable[..., Engine], some_passes: Callable[..., list[Pass]], folder: Path
) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    passes = some_passes(40, seed=7)
    found = Engine(Model(path=str(folder), prompt_style="plain"), "cuda").logprobs(passes)
    for values, wanted in zip(found, engine(folder).logprobs(passes), strict=True):
        np.testing.assert_allclose(values, wanted, rtol=1e-5, atol=1e-4)
