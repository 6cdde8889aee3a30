"""MeZO: steps against the vectors, drift, replay, micro-batches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tamis.trainer import methods
from tamis.trainer.methods.mezo import REPLAY, directions, move, probe, replay


def test_steps_are_those_of_the_vectors(vectors: Any) -> None:
    import torch

    with np.load(vectors("trainer") / "mezo.npz", allow_pickle=False) as held:
        given = {name: torch.from_numpy(np.array(held[name])) for name in held.files}
    a, b = given["A"].double(), given["b"].double()
    theta = given["theta0"].clone()
    eps, rate, decay = (float(given[n]) for n in ("eps", "lr", "weight_decay"))
    for step, z in enumerate(given["Z"]):

        def draw(z: Any = z) -> list[Any]:
            return [z]

        upper, lower = probe([theta], draw, lambda: 0.5 * theta @ a @ theta - b @ theta, eps)
        g = float(upper - lower) / (2 * eps)
        assert g == pytest.approx(float(given["projected_grads"][step]), rel=1e-9)
        move([theta], draw, g, rate, decay)
        torch.testing.assert_close(theta, given["thetas"][step], atol=1e-9, rtol=0)


def test_asking_leaves_the_parameters_where_they_were(by_hand: Any) -> None:
    import torch

    run = by_hand("full")
    parameters = list(run.lm.parameters())
    before = [p.detach().clone() for p in parameters]
    for step in range(20):
        with torch.no_grad():
            upper, lower = probe(parameters, directions(3, step, parameters), run.loss, 1e-3)
        assert upper != lower
    for parameter, value in zip(parameters, before, strict=True):
        assert float((parameter - value).detach().abs().max()) < 1e-6


def test_directions_hang_on_seed_and_step_alone() -> None:
    import torch

    parameters = [torch.zeros(50, 40), torch.zeros(7)]
    torch.manual_seed(0)
    state = torch.get_rng_state()
    draws = [
        torch.cat([z.flatten() for z in directions(seed, step, parameters)()])
        for seed, step in ((1, 0), (1, 0), (1, 1), (2, 0))
    ]
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(draws[0], draws[1])
    for other in draws[2:]:
        assert abs(float(torch.corrcoef(torch.stack((draws[0], other)))[0, 1])) < 0.1
    assert abs(float(draws[0].mean())) < 0.1 and abs(float(draws[0].std()) - 1) < 0.1


def test_a_run_is_replayed_to_the_bit(tuned: Any, tiny: Any, tmp_path: Path) -> None:
    from tamis.language.load import load_model

    given = {"learning_rate": 1e-3, "weight_decay": 0.1}
    saved, report = tuned("mezo", {}, **given)
    lm = load_model(tiny.model_copy(update={"dtype": "float32"}), "cpu")
    replay(list(lm.parameters()), tmp_path / "run" / "model" / REPLAY)
    named = dict(lm.named_parameters())
    assert all((named[name] == value).all() for name, value in saved.items() if name in named)
    told = json.loads((tmp_path / "run" / "model" / REPLAY).read_text())
    assert len(told["g"]) == len(told["rate"]) == report["steps"] == 3
    assert any(told["g"]) and told["decay"] == 0.1


def test_micro_batches_share_one_direction(tuned: Any) -> None:
    given = {"learning_rate": 1e-3, "scheduler": "constant"}
    one, _ = tuned("mezo", {}, "one", batch_tokens=4096, **given)
    many, report = tuned("mezo", {}, "many", batch_tokens=64, packing="none", **given)
    # A step of 1e-3 along g ~ 1; rounding of the loss enters g divided by 2 eps.
    assert all(float((one[n] - many[n]).abs().max()) < 1e-5 for n in one)
    assert all(entry["tokens"] > 0 for entry in report["history"])


def test_a_small_enough_step_goes_downhill(by_hand: Any) -> None:
    run = by_hand("mezo")
    run.method.optimizer(run.trained, 1e-5, 0.0)
    first = float(run.loss().detach())
    import torch

    def loss() -> Any:
        with torch.no_grad():
            return run.loss()

    for step in range(40):
        run.method.training_step(loss, step, 1e-5)
    assert float(loss()) < first
    assert all(p.grad is None for p in run.lm.parameters())


def test_vectors_do_not_decay_and_defaults_follow_what_is_moved() -> None:
    import torch

    parameters = [torch.ones(2, 2), torch.ones(2)]
    move(parameters, lambda: [torch.zeros(2, 2), torch.zeros(2)], 1.0, 0.1, 0.5)
    assert torch.equal(parameters[0], torch.full((2, 2), 0.95))
    assert torch.equal(parameters[1], torch.ones(2))
    full, lora = methods.build("mezo"), methods.build("mezo", {"over": "lora"})
    assert (full.kind, full.learning_rate) == ("full", 1e-6)
    assert (lora.kind, lora.learning_rate) == ("adapter", 5e-5)
