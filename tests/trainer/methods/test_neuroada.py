"""NeuroAda: which entries, and what weight decay draws them to."""

from __future__ import annotations

from typing import Any

import numpy as np

from tamis.trainer import methods


def test_masks_are_those_of_the_vectors(vectors: Any) -> None:
    import torch

    with np.load(vectors("trainer") / "neuroada_masks.npz", allow_pickle=False) as held:
        for case in range(2):
            weight, wanted = held[f"W_{case}"], held[f"mask_{case}"]
            method: Any = methods.build("neuroada", {"per_row": int(held[f"k_{case}"])})
            found = np.zeros(weight.shape, dtype=bool)
            found.flat[method.chosen(torch.from_numpy(weight)).numpy()] = True
            assert (found == wanted).all()


def test_a_short_row_is_trained_whole() -> None:
    import torch

    method: Any = methods.build("neuroada", {"per_row": 9})
    assert method.chosen(torch.ones(3, 4)).tolist() == list(range(12))


def test_weight_decay_draws_to_the_start_and_not_to_zero(by_hand: Any, tiny: Any) -> None:
    import torch

    run, other = by_hand("neuroada", per_row=2), by_hand("full")
    entries = run.method.entries
    parameters = [e.values for e in entries.values()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.5)
    run.step(0, optimizer)
    moved = [float(e.values.detach().abs().max()) for e in entries.values()]
    assert min(moved) > 0
    for parameter in parameters:
        parameter.grad = None
    for _ in range(3000):
        for parameter in parameters:
            parameter.data *= 1 - 1e-2 * 0.5
    run.method.step_end(0)
    for name, found in entries.items():
        began = other.lm.get_submodule(name).weight.data
        torch.testing.assert_close(found.layer.weight, began, atol=1e-6, rtol=0)


def test_each_neuron_learns_k_numbers(by_hand: Any) -> None:
    run = by_hand("neuroada", per_row=3)
    rows = sum(len(e.layer.weight) for e in run.method.entries.values())
    assert run.method.trainable(run.trained) == 3 * rows
    before = {n: e.layer.weight.clone() for n, e in run.method.entries.items()}
    import torch

    run.step(0, torch.optim.SGD([e.values for e in run.method.entries.values()], lr=1.0))
    for name, entries in run.method.entries.items():
        changed = (entries.layer.weight != before[name]).sum(dim=1)
        assert (changed <= 3).all() and changed.float().mean() > 2.5
