"""The loss against vectors of float64 formulas, and the chunked head against the whole one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tamis.trainer.loss import denominator, head_terms, targets, token_terms, weighted_mean

Case = dict[str, np.ndarray]


def load(path: Path) -> Case:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


@pytest.fixture(scope="module")
def cases(vectors: Callable[[str], Path]) -> list[Path]:
    """The files of losses; each may have a `grad_accum` file of the same ending beside it."""
    found = sorted(vectors("trainer").glob("losses*.npz"))
    assert found, "no losses*.npz among the vectors of the trainer"
    return found


def batch(losses: Case, weight: np.ndarray) -> tuple[Any, dict[str, Any]]:
    import torch

    labels = torch.from_numpy(losses["labels"].astype(np.int64))
    weights = torch.from_numpy(weight.astype(np.float32))[:, None].expand(labels.shape)
    return torch.from_numpy(losses["logits"]), {"labels": labels, "loss_weights": weights}


def step_loss(logits: Any, given: dict[str, Any]) -> Any:
    row, before, tokens = targets(given["labels"])
    nll, _ = token_terms(logits[row, before], tokens)
    return weighted_mean(nll, given["loss_weights"][row, before + 1], denominator(given))


def test_token_terms(cases: list[Path]) -> None:
    for losses in map(load, cases):
        check_token_terms(losses)


def check_token_terms(losses: Case) -> None:
    logits, given = batch(losses, losses["sample_weight"])
    row, before, tokens = targets(given["labels"])
    nll, correct = token_terms(logits[row, before], tokens)
    whole = np.zeros_like(losses["token_nll"])
    whole[row, before] = nll
    np.testing.assert_allclose(whole, losses["token_nll"], rtol=1e-4, atol=1e-6)
    assert len(nll) == losses["mask"].sum()
    top = losses["logits"][:, :-1].argmax(-1) == losses["labels"][:, 1:]
    np.testing.assert_array_equal(correct, top[row, before])


@pytest.mark.parametrize("name", ["sft", "weighted_token"])
def test_loss_and_its_gradient(cases: list[Path], name: str) -> None:
    for losses in map(load, cases):
        check_loss(losses, name)


def check_loss(losses: Case, name: str) -> None:
    ones = np.ones_like(losses["sample_weight"])
    logits, given = batch(losses, ones if name == "sft" else losses["sample_weight"])
    logits.requires_grad_(True)
    loss = step_loss(logits, given)
    loss.backward()
    assert float(loss) == pytest.approx(float(losses[f"loss_{name}"]), rel=1e-5)
    np.testing.assert_allclose(logits.grad, losses[f"grad_{name}"], rtol=1e-4, atol=1e-7)


def test_accumulation_is_exact_and_the_mean_of_means_is_not(cases: list[Path]) -> None:
    pairs = [(p, p.with_name(p.name.replace("losses", "grad_accum"))) for p in cases]
    pairs = [pair for pair in pairs if pair[1].is_file()]
    assert pairs, "no grad_accum*.npz among the vectors of the trainer"
    for one, other in pairs:
        check_accumulation(load(one), load(other))


def check_accumulation(losses: Case, case: Case) -> None:
    logits, given = batch(losses, losses["sample_weight"])
    parts = []
    for i in range(len(case["micro_numerators"])):
        rows = np.flatnonzero(case["micro_batch_ids"] == i)
        parts.append((logits[rows], {name: value[rows] for name, value in given.items()}))
    total = sum(denominator(part) for _, part in parts)
    for (_, part), want in zip(parts, case["micro_denominators"], strict=True):
        assert float(denominator(part)) == pytest.approx(float(want), rel=1e-6)
    found = 0.0
    for part_logits, part in parts:
        row, before, tokens = targets(part["labels"])
        nll, _ = token_terms(part_logits[row, before], tokens)
        found += float(weighted_mean(nll, part["loss_weights"][row, before + 1], total))
    assert found == pytest.approx(float(case["correct_total"]), rel=1e-5)
    assert found != pytest.approx(float(case["wrong_mean_of_means"]), rel=1e-3)


def test_a_step_without_weight_or_without_target_is_a_differentiable_zero() -> None:
    import torch

    logits = torch.randn(1, 4, 7, requires_grad=True)
    labels = torch.tensor([[-100, 1, 2, 3]])
    zero = step_loss(logits, {"labels": labels, "loss_weights": torch.zeros(1, 4)})
    none = step_loss(logits, {"labels": torch.full((1, 4), -100), "loss_weights": torch.ones(1, 4)})
    (zero + none).backward()
    assert float(zero) == float(none) == 0.0
    assert float(logits.grad.abs().max()) == 0.0


@pytest.mark.parametrize("chunk", [1, 3, 10, 100])
def test_chunked_head_gives_the_same_terms_and_gradients(chunk: int) -> None:
    import torch

    torch.manual_seed(0)
    head = torch.nn.Linear(5, 11, bias=False)
    hidden = torch.randn(10, 5, requires_grad=True)
    tokens = torch.randint(11, (10,))
    scale = torch.rand(10)

    def gradients(size: int) -> tuple[Any, ...]:
        nll, correct = head_terms(head, hidden, tokens, size)
        found = torch.autograd.grad((nll * scale).sum(), [hidden, head.weight])
        return nll.detach(), correct, *found

    for one, other in zip(gradients(chunk), gradients(10_000), strict=True):
        torch.testing.assert_close(one, other)
