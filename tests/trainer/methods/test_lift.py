"""LIFT: masks and steps against the vectors, entries against dense gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tamis.errors import RecipeError
from tamis.recipe import Tune
from tamis.trainer import methods, optimizers
from tamis.trainer.methods import Context, sparse
from tamis.trainer.methods.entry_adam import entry_adam


@pytest.fixture(scope="module")
def cases(vectors: Any) -> dict[str, Any]:
    with np.load(vectors("trainer") / "lift.npz", allow_pickle=False) as held:
        return dict(held)


def upon(weight: np.ndarray, name: str = "lift", **options: Any) -> tuple[Any, Any]:
    """A method upon a model that is one linear layer; its entries."""
    import torch

    model = torch.nn.Module()
    model.layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    model.layer.weight.data = torch.from_numpy(weight.copy())
    model.get_output_embeddings = lambda: None
    method: Any = methods.build(name, options)
    method.prepare(model, Context(8, 0, 1e-3, 3, "cpu", lambda rows, at_once: iter([]), 0))
    return method, method.entries["layer"]


def mask(entries: Any) -> np.ndarray:
    found = np.zeros(entries.layer.weight.shape, dtype=bool)
    found.flat[entries.index.numpy()] = True
    return found


@pytest.mark.parametrize("case", range(3))
def test_masks_and_steps_are_those_of_the_vectors(cases: dict[str, Any], case: int) -> None:
    import torch

    given = {n: cases[f"{n}_{case}"] for n in ("W", "rank", "filter_rank", "mask", "grads")}
    method, entries = upon(
        given["W"],
        rank=int(given["rank"]),
        filter_rank=int(given["filter_rank"]),
        interval=int(cases["update_interval"]),
    )
    assert (mask(entries) == given["mask"]).all()
    assert len(entries.index) == cases[f"k_{case}"]
    optimizer = method.optimizer(None, float(cases["lr"]), 0.0)
    assert tuple(optimizer.defaults["betas"]) == tuple(cases["betas"])
    assert optimizer.defaults["eps"] == cases["eps"]
    for step, gradient in enumerate(given["grads"]):
        method.step_begin(step, optimizer)
        if step > 0:
            assert (mask(entries) == cases[f"masks_after_{case}"][step - 1]).all(), step
        entries.values.grad = torch.from_numpy(gradient).flatten()[entries.index.long()]
        optimizer.step()
        method.step_end(step)
        found = entries.layer.weight.numpy()
        np.testing.assert_allclose(found, cases[f"traj_{case}"][step], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dense", [True, False])
def test_the_gradient_of_entries_is_read_off_that_of_the_matrix(
    dense: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(sparse, "_AT_ONCE", 40)  # blocks of two tokens
    rng = torch.Generator().manual_seed(0)
    layer = torch.nn.Linear(7, 5)
    x = torch.randn(3, 3, 7, generator=rng, requires_grad=True)
    back = torch.randn(3, 3, 5, generator=rng)
    plain = layer(x)
    wanted, to_x = torch.autograd.grad(plain, (layer.weight, x), back)
    index = torch.randperm(35, generator=rng)[:17].sort().values
    layer.requires_grad_(False)
    entries = sparse.Entries(layer, index, dense=dense, delta=False)
    out = layer(x)
    assert torch.equal(out, plain)
    found, through = torch.autograd.grad(out, (entries.values, x), back)
    torch.testing.assert_close(found, wanted.flatten()[index])
    assert torch.equal(through, to_x)
    entries.values.data += 1
    entries.write()
    entries.release()
    assert isinstance(layer.weight, torch.nn.Parameter)
    assert [name for name, _ in layer.named_parameters()] == ["bias", "weight"]


def test_all_entries_are_dense_adam(by_hand: Any) -> None:
    import torch

    run = by_hand("lift", rank=64, filter_rank=8, interval=1000)
    other = by_hand("full")
    dense = {n: other.lm.get_submodule(n).weight for n in run.method.entries}
    assert all(len(e.index) == dense[n].numel() for n, e in run.method.entries.items())
    for parameter in other.lm.parameters():
        parameter.requires_grad_(any(parameter is weight for weight in dense.values()))
    (b1, b2), eps, rate, decay = (0.9, 0.95), 1e-6, 1e-2, 0.1
    optimizer = run.method.optimizer(run.trained, rate, decay)
    mean, square = ({n: torch.zeros_like(w) for n, w in dense.items()} for _ in range(2))
    for step in range(3):
        run.step(step, optimizer)
        other.loss().backward()
        for name, weight in dense.items():
            g = weight.grad
            mean[name] = b1 * mean[name] + (1 - b1) * g
            square[name] = b2 * square[name] + (1 - b2) * g**2
            size = rate * np.sqrt(1 - b2 ** (step + 1)) / (1 - b1 ** (step + 1))
            weight.data -= size * mean[name] / (square[name].sqrt() + eps)
            weight.data *= 1 - rate * decay
            weight.grad = None
    for name, weight in dense.items():
        found = run.method.entries[name].layer.weight
        torch.testing.assert_close(found, weight.data, atol=1e-5, rtol=1e-5)


def test_what_left_keeps_what_it_learnt_and_what_stays_its_moments(cases: dict[str, Any]) -> None:
    import torch

    method, entries = upon(cases["W_0"], rank=2, filter_rank=4, interval=3)
    optimizer = method.optimizer(None, 0.05, 0.0)
    for step in range(2):
        method.step_begin(step, optimizer)
        entries.values.grad = torch.full_like(entries.values, 1.0 + step)
        optimizer.step()
        method.step_end(step)
    before, learnt = mask(entries), entries.layer.weight.clone().numpy()
    moments = optimizer.state[entries.values]["exp_avg"].tolist()
    was = dict(zip(entries.index.tolist(), moments, strict=True))
    method.step_begin(2, optimizer)
    left = before & ~mask(entries)
    assert left.any() and (entries.layer.weight.numpy() == learnt).all()
    now = optimizer.state[entries.values]["exp_avg"].tolist()
    for place, moment in zip(entries.index.tolist(), now, strict=True):
        assert moment == was.get(place, 0.0)
    assert optimizer.state[entries.values]["step"] == 2


def test_the_other_choice_is_the_smallest(cases: dict[str, Any]) -> None:
    options = {"rank": 2, "filter_rank": 4}
    largest, smallest = (
        mask(upon(cases["W_0"], select=select, **options)[1]) for select in ("largest", "smallest")
    )
    assert not (largest & smallest).any() and largest.sum() == smallest.sum()


def test_the_randomised_picture_is_near_and_leaves_the_global_generator_alone() -> None:
    import torch

    rng = np.random.default_rng(0)
    low = rng.normal(size=(60, 4)) @ rng.normal(size=(4, 50))
    weight = (low + 1e-3 * rng.normal(size=low.shape)).astype(np.float32)
    found = []
    for svd in ("exact", "lowrank", "lowrank"):
        method, entries = upon(weight, rank=2, filter_rank=4, svd=svd)
        state = torch.get_rng_state()
        found.append(method.chosen(entries.layer.weight, 0))
        assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(found[1], found[2])
    assert torch.isin(found[1], found[0]).float().mean() >= 0.99


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"rank=9 .* \(16 x 16\).* at most 8"):
        upon(np.eye(16, dtype=np.float32), rank=9, interval=None)
    upon(np.eye(16, dtype=np.float32), rank=8, interval=None)
    method = methods.build("lift")
    with pytest.raises(RecipeError, match="lift steps in its own way"):
        optimizers.check(Tune(method="lift", optimizer="sgd"), method)
    assert entry_adam() is entry_adam()
