"""LoRA-SB against the vectors, its gradients against autograd; LoRA-XS against the SVD."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tamis.trainer.methods.lora_sb import gradients, sign_factors


@pytest.mark.parametrize("case", range(2))
def test_the_start_is_that_of_the_vectors(vectors: Any, case: int) -> None:
    import torch

    with np.load(vectors("trainer") / "lora_sb_init.npz", allow_pickle=False) as held:
        rank = int(held[f"rank_{case}"])
        gradient = torch.from_numpy(held[f"grad_{case}"])
        b, r, a = sign_factors(gradient, float(held["eta"]), rank)
        np.testing.assert_allclose(b @ r @ a, held[f"delta_rank_r_{case}"], atol=1e-6)
        sizes = r.diagonal().numpy()
        np.testing.assert_allclose(sizes, held[f"singular_values_{case}"], atol=1e-6)
    eye = torch.eye(rank)
    torch.testing.assert_close(b.T @ b, eye, atol=1e-5, rtol=0)
    torch.testing.assert_close(a @ a.T, eye, atol=1e-5, rtol=0)


def test_where_there_is_no_gradient_there_is_no_step() -> None:
    import torch

    gradient = torch.zeros(4, 6)
    gradient[1, 2] = -3.0
    b, r, a = sign_factors(gradient, 0.5, 4)
    wanted = torch.zeros(4, 6)
    wanted[1, 2] = 0.5
    torch.testing.assert_close(b @ r @ a, wanted, atol=1e-6, rtol=0)


def test_gradients_are_the_sum_of_those_of_batches(by_hand: Any) -> None:
    import torch

    run = by_hand("full")
    seen: list[Any] = []
    dense = {n: m for n, m in run.lm.named_modules() if n.endswith(("q_proj", "down_proj"))}

    class Given:
        device = "cpu"

        def batches(self, rows: int, at_once: int) -> Any:
            assert (rows, at_once) == (5, 3)
            for part in (slice(0, 3), slice(3, 5)):
                seen.append({name: value[part] for name, value in run.batch.items()})
                yield seen[-1]

    found = gradients(dense, run.lm, Given(), 5)  # type: ignore[arg-type]
    assert all(m.weight.grad is None and not m.weight.requires_grad for m in dense.values())
    weights = [m.weight.requires_grad_(True) for m in dense.values()]
    wanted = [torch.zeros_like(w) for w in weights]
    for batch in seen:
        loss = run.lm(**batch)["nll"].mean()
        for total, part in zip(wanted, torch.autograd.grad(loss, weights), strict=True):
            total += part
    for (name, total), right in zip(found.items(), wanted, strict=True):
        torch.testing.assert_close(total, right, msg=name)


def test_the_first_step_has_the_rate_of_the_warm_up(by_hand: Any) -> None:
    for options, eta in (({"warmup": 4}, 1e-3 / 4), ({}, 1e-3), ({"eta": 0.5}, 0.5)):
        run = by_hand("lora_sb", rank=2, rows=3, **options)
        assert run.method.facts() == {"eta": pytest.approx(eta)}
        core = next(iter(run.method.cores.values()))
        change = (core.b @ core.layer.core.detach() @ core.a).abs().max()
        assert 0 < float(change) < 5 * eta


def test_what_is_saved_is_a_lora_of_scaling_one(tuned: Any, tmp_path: Path) -> None:
    tuned("lora_sb", {"rank": 40, "rows": 6})  # more than some layers have
    told = json.loads((tmp_path / "run" / "model" / "adapter_config.json").read_text())
    assert told["r"] == told["lora_alpha"] and not told["use_rslora"]
    assert told["rank_pattern"] == told["alpha_pattern"]
    assert {told["r"], *told["rank_pattern"].values()} == {32, 16}


def test_the_other_start_is_the_weight_itself(by_hand: Any) -> None:
    import torch

    run = by_hand("lora_xs", rank=5)
    for core in run.method.cores.values():
        weight = core.layer.weight.detach()
        u, s, vt = torch.linalg.svd(weight, full_matrices=False)
        best = (u[:, :5] * s[:5]) @ vt[:5]
        torch.testing.assert_close(core.b @ core.a, best, atol=1e-5, rtol=1e-5)
        assert not core.layer.core.any() and core.layer.core.shape == (5, 5)
