"""Gradients of batches against a backward pass of one row at a time."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from tamis.errors import RecipeError, TamisError
from tamis.language.forward import Engine, Pass
from tamis.language.gradients import Gradients, square_norms
from tamis.language.network import WholeNetwork
from tamis.recipe import Model


def weight_gradients(model: torch.nn.Module, p: Pass, names: list[str]) -> dict[str, np.ndarray]:
    """The definition: the backward pass of the mean loss of one row."""
    weights = {name: model.get_parameter(f"{name}.weight") for name in names}
    for weight in weights.values():
        weight.requires_grad_()
    logits = model(input_ids=torch.tensor([p.ids])).logits[0]
    tokens = torch.tensor(p.ids)[p.targets]
    loss = torch.nn.functional.cross_entropy(logits[torch.from_numpy(p.targets) - 1], tokens)
    found = torch.autograd.grad(loss, list(weights.values()))
    return {n: g.double().numpy() for n, g in zip(weights, found, strict=True)}


def check(runner: Gradients, model: torch.nn.Module, prefix: str, passes: list[Pass]) -> None:
    found = runner.run(passes)
    signs = {n: [s.double().numpy() for s in pair] for n, pair in runner._signs.items()}
    for values, p in zip(found, passes, strict=True):
        if not len(p.targets):
            assert values is None
            continue
        expected = weight_gradients(model, p, [prefix + n for n in runner.layers])
        norm = np.sqrt(sum((g**2).sum() for g in expected.values()))
        vector = sum(
            signs[n.removeprefix(prefix)][0].T @ g @ signs[n.removeprefix(prefix)][1]
            for n, g in expected.items()
        ).reshape(-1)
        assert values[0] == pytest.approx(norm, rel=1e-5)
        np.testing.assert_allclose(values[1], vector, rtol=1e-5, atol=1e-5 * norm)


@pytest.mark.parametrize("budget", [1, 150, 100_000])
@pytest.mark.parametrize(
    ("modules", "blocks", "layers"),
    [((), 1, 7), ((), 0, 14), (("v_proj",), 1, 1), (("q_proj", "down_proj"), 2, 4)],
)
def test_equals_a_backward_pass_a_row(
    engine: Callable[..., Engine],
    some_passes: Callable[..., list[Pass]],
    folder: Path,
    budget: int,
    modules: tuple[str, ...],
    blocks: int,
    layers: int,
) -> None:
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    runner = Gradients(engine(folder, budget), modules, blocks, dimension=24, seed=3)
    assert len(runner.layers) == layers
    check(runner, plain, "model.", some_passes(16))


def test_models_that_run_whole_give_the_same(
    engine: Callable[..., Engine], some_passes: Callable[..., list[Pass]], folder: Path
) -> None:
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    whole = engine(folder)
    whole.network = WholeNetwork(AutoModelForCausalLM.from_pretrained(folder).float().eval())
    check(Gradients(whole, dimension=6), plain, "", some_passes(8, seed=1))


def test_of_an_adapter_its_factors_count(
    engine: Callable[..., Engine],
    some_passes: Callable[..., list[Pass]],
    folder: Path,
    tmp_path: Path,
) -> None:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    made = get_peft_model(
        AutoModelForCausalLM.from_pretrained(folder),
        LoraConfig(r=4, target_modules=["v_proj", "o_proj"], init_lora_weights=False),
    )
    made.save_pretrained(tmp_path)
    runner = Gradients(engine(folder, adapter=str(tmp_path)), dimension=10)
    assert sorted(runner.layers) == [
        f"layers.1.self_attn.{m}.lora_{f}.default" for m in ("o_proj", "v_proj") for f in "AB"
    ]
    check(runner, made.get_base_model().float().eval(), "model.", some_passes(8, seed=2))
    only = Gradients(engine(folder, adapter=str(tmp_path)), ("lora_B",), 0)
    assert len(only.layers) == 4


def test_company_and_padding_do_not_matter(
    engine: Callable[..., Engine], some_passes: Callable[..., list[Pass]], folder: Path
) -> None:
    passes = some_passes(12, seed=4)
    together = Gradients(engine(folder)).run(passes)
    for i in range(0, 12, 3):
        (alone,) = Gradients(engine(folder)).run(passes[i : i + 1])
        if alone is not None:
            assert alone[0] == pytest.approx(together[i][0], rel=1e-5)
            np.testing.assert_allclose(alone[1], together[i][1], atol=1e-5 * alone[0])


def test_the_seed_and_the_name_of_a_layer_fix_its_projection(
    engine: Callable[..., Engine], some_passes: Callable[..., list[Pass]], folder: Path
) -> None:
    passes = some_passes(6, seed=5)
    first, again, other = (Gradients(engine(folder), seed=s).run(passes) for s in (0, 0, 1))
    for a, b, c in zip(first, again, other, strict=True):
        if a is not None:
            np.testing.assert_array_equal(a[1], b[1])
            assert np.abs(a[1] - c[1]).max() > 0
            assert a[0] == c[0]
    one = Gradients(engine(folder), ("v_proj",))._signs["layers.1.self_attn.v_proj"]
    every = Gradients(engine(folder), (), 0)._signs["layers.1.self_attn.v_proj"]
    for a, b in zip(one, every, strict=True):
        np.testing.assert_array_equal(a, b)


def test_projections_keep_products_on_average(
    engine: Callable[..., Engine], some_passes: Callable[..., list[Pass]], folder: Path
) -> None:
    passes = [p for p in some_passes(10, seed=6) if len(p.targets)]
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    names = [f"model.{n}" for n in Gradients(engine(folder)).layers]
    full = [weight_gradients(plain, p, names) for p in passes]
    exact = np.array([[sum((a[n] * b[n]).sum() for n in names) for a in full] for b in full])
    found = []
    for seed in range(40):
        rows = Gradients(engine(folder), dimension=64, seed=seed).run(passes)
        vectors = np.stack([r[1] for r in rows])
        found.append(vectors @ vectors.T)
    scale = np.sqrt(np.outer(np.diag(exact), np.diag(exact)))
    assert np.abs((np.mean(found, axis=0) - exact) / scale).max() < 0.15


@pytest.mark.parametrize("shape", [(3, 2, 40, 30), (3, 50, 4, 6), (2, 7, 1, 1)])
def test_square_norms_by_either_way(shape: tuple[int, int, int, int]) -> None:
    b, t, p, q = shape
    rng = np.random.default_rng(0)
    x, d = rng.normal(size=(b, t, p)), rng.normal(size=(b, t, q))
    expected = (np.einsum("btq,btp->bqp", d, x) ** 2).sum(axis=(1, 2))
    found = square_norms(*(torch.from_numpy(a.astype(np.float32)) for a in (x, d)))
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_norms_of_tokens_that_cancel() -> None:
    rng = np.random.default_rng(1)
    x = (100 + rng.normal(size=(1, 6, 50))).astype(np.float32)
    d = rng.normal(size=(1, 6, 60)).astype(np.float32)
    d -= d.mean(axis=1, keepdims=True)
    expected = (np.einsum("btq,btp->bqp", d.astype(float), x.astype(float)) ** 2).sum()
    found = square_norms(torch.from_numpy(x), torch.from_numpy(d))
    assert float(found[0]) == pytest.approx(expected, rel=1e-6)


def test_names_that_are_not_there(
    engine: Callable[..., Engine], some_passes: Callable[..., list[Pass]], folder: Path
) -> None:
    with pytest.raises(RecipeError, match=r"named c_attn; there are down_proj, .*v_proj"):
        Gradients(engine(folder), ("c_attn",)).run(some_passes(2))


def test_a_layer_that_runs_twice_is_refused(
    engine: Callable[..., Engine], some_passes: Callable[..., list[Pass]], folder: Path
) -> None:
    runner = Gradients(engine(folder), (), 0)
    runner.engine.network = copy.deepcopy(runner.engine.network)
    blocks = runner.engine.network.backbone.layers
    blocks[1].mlp.gate_proj = blocks[0].mlp.gate_proj
    with pytest.raises(TamisError, match="runs twice"):
        runner.run(some_passes(3))


def test_weights_and_hooks_are_left_as_they_were(
    engine: Callable[..., Engine], some_passes: Callable[..., list[Pass]], folder: Path
) -> None:
    runner = Gradients(engine(folder))
    before = {n: v.clone() for n, v in runner.engine.network.backbone.state_dict().items()}
    runner.run(some_passes(4))
    for name, value in runner.engine.network.backbone.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    assert not any(layer._forward_hooks for layer in runner.layers.values())


@pytest.mark.gpu
def test_a_gpu_gives_the_same_values(
    engine: Callable[..., Engine], some_passes: Callable[..., list[Pass]], folder: Path
) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    passes = some_passes(20, seed=7)
    there = Engine(Model(path=str(folder), prompt_style="plain"), "cuda")
    here = Gradients(engine(folder)).run(passes)
    for found, expected in zip(Gradients(there).run(passes), here, strict=True):
        if expected is not None:
            assert found[0] == pytest.approx(expected[0], rel=1e-4)
            np.testing.assert_allclose(found[1], expected[1], atol=1e-4 * expected[0])
