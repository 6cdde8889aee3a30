"""Objectives against vectors of float64 formulas, and the properties they must have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tamis.errors import DataError, RecipeError
from tamis.trainer import objectives
from tamis.trainer.data import Examples
from tamis.trainer.loss import (
    chunked,
    denominator,
    divergence_terms,
    targets,
    token_terms,
    weighted_mean,
)
from tamis.trainer.objectives import Course
from tamis.trainer.pack import micro_batches, padded

Case = dict[str, np.ndarray]
COURSE = Course(seed=0, steps=4)


@pytest.fixture(scope="module")
def cases(vectors: Callable[[str], Path]) -> list[Case]:
    """Every file of losses."""
    found = []
    for path in sorted(vectors("trainer").glob("losses*.npz")):
        with np.load(path, allow_pickle=False) as file:
            found.append(dict(file))
    assert found, "no losses*.npz among the vectors of the trainer"
    return found


def loss_of(
    case: Case, name: str, given: dict[str, Any] | None, weight: Any, chunk: int = 10**9
) -> tuple[float, np.ndarray]:
    """The loss of a case as one step, and its gradient with respect to the logits."""
    import torch

    objective = objectives.build(name, given)
    logits = torch.from_numpy(case["logits"]).requires_grad_(True)
    labels = torch.from_numpy(case["labels"].astype(np.int64))
    weights = torch.from_numpy(np.broadcast_to(weight, labels.T.shape).T.astype(np.float32))
    row, before, tokens = targets(labels)
    start = torch.from_numpy(case["ref_logits"])[row, before]
    nll, _, kl = chunked(divergence_terms, chunk, logits[row, before], start, tokens)
    total = denominator({"labels": labels, "loss_weights": weights})
    cost = objective.cost({"nll": nll, "kl": kl})
    loss = weighted_mean(cost, weights[row, before + 1], total)
    loss.backward()
    return float(loss.detach()), logits.grad.numpy()


FORMULAS = {
    "sft": ("sft", {}),
    "dft": ("dft", {}),
    "asft_005": ("asft", {"kl_weight": 0.05}),
    "asft_010": ("asft", {"kl_weight": 0.1}),
    "sftkl_010": ("asft", {"kl_weight": 0.1, "mode": "sft_kl"}),
}


@pytest.mark.parametrize("chunk", [3, 10**9])
@pytest.mark.parametrize("formula", FORMULAS)
def test_losses_and_gradients(cases: list[Case], formula: str, chunk: int) -> None:
    for case in cases:
        found, gradient = loss_of(case, *FORMULAS[formula], 1.0, chunk)
        assert found == pytest.approx(float(case[f"loss_{formula}"]), rel=1e-5)
        assert found == pytest.approx(float(case[f"official_loss_{formula}"]), abs=2e-5)
        if f"grad_{formula}" in case:
            np.testing.assert_allclose(gradient, case[f"grad_{formula}"], rtol=1e-4, atol=1e-7)


def test_weighted_dft(cases: list[Case]) -> None:
    for case in cases:
        found, _ = loss_of(case, "dft", None, case["sample_weight"])
        assert found == pytest.approx(float(case["loss_weighted_dft"]), rel=1e-5)


def test_the_gradient_of_sft_kl_is_that_of_finite_differences(cases: list[Case]) -> None:
    for case in cases:
        _, gradient = loss_of(case, "asft", {"mode": "sft_kl", "kl_weight": 0.7}, 1.0)
        rng, step = np.random.default_rng(0), 1e-2
        for _ in range(5):
            way = rng.standard_normal(case["logits"].shape).astype(np.float32)
            ends = [
                loss_of(
                    {**case, "logits": case["logits"] + sign * step * way},
                    "asft",
                    {"mode": "sft_kl", "kl_weight": 0.7},
                    1.0,
                )[0]
                for sign in (1, -1)
            ]
            slope = (ends[0] - ends[1]) / (2 * step)
            assert slope == pytest.approx(float((gradient * way).sum()), rel=5e-3, abs=5e-4)


def test_the_divergence_of_each_token(cases: list[Case]) -> None:
    import torch

    for case in cases:
        row, before, tokens = targets(torch.from_numpy(case["labels"].astype(np.int64)))
        now, start = (torch.from_numpy(case[n])[row, before] for n in ("logits", "ref_logits"))
        _, _, kl = divergence_terms(now, start, tokens)
        np.testing.assert_allclose(kl, case["token_kl_ref_cur"][row, before], rtol=1e-4, atol=1e-6)
        nll, correct, same = divergence_terms(now, now, tokens)
        assert (same == 0).all()
        plain = token_terms(now, tokens)
        assert (nll == plain[0]).all() and (correct == plain[1]).all()


def test_a_start_model_that_excludes_a_token_gives_a_finite_divergence() -> None:
    import torch

    now = torch.zeros(1, 3, requires_grad=True)
    start = torch.tensor([[0.0, 0.0, -float("inf")]])
    _, _, kl = divergence_terms(now, start, torch.tensor([0]))
    kl.sum().backward()
    assert float(kl.detach()) == pytest.approx(np.log(3) - np.log(2), rel=1e-6)
    assert torch.isfinite(now.grad).all()


def test_relations_between_the_objectives(cases: list[Case]) -> None:
    import torch

    for case in cases:
        dft = loss_of(case, "dft", None, 1.0)
        zero = loss_of(case, "asft", {"kl_weight": 0.0}, 1.0)
        assert zero[0] == dft[0] and (zero[1] == dft[1]).all()
        same = {**case, "ref_logits": case["logits"]}
        near = loss_of(same, "asft", {"kl_weight": 5.0}, 1.0)
        assert near[0] == pytest.approx(dft[0], rel=1e-6)
        np.testing.assert_allclose(near[1], dft[1], atol=1e-6)
    sure = {"nll": torch.zeros(3), "kl": torch.ones(3)}
    assert (objectives.build("dft").cost(sure) == objectives.build("sft").cost(sure)).all()
    told = torch.tensor([2.0], requires_grad=True)
    objectives.build("dft").cost({"nll": told}).sum().backward()
    assert float(told.grad) == pytest.approx(np.exp(-2.0), rel=1e-6)  # p times the gradient of nll


def examples_of(case: Case, weight: np.ndarray) -> tuple[Examples, Any]:
    """The rows of a case whose tokens are labelled as they are, and their nll by row and column."""
    labels = case["labels"].astype(np.int64)
    n, length = labels.shape
    return (
        Examples(
            ids=np.where(labels == -100, 0, labels).ravel().astype(np.int32),
            labelled=(labels != -100).ravel(),
            indptr=np.arange(0, n * length + 1, length),
            weight=weight.astype(np.float64),
            row_id=[f"r{i}" for i in range(n)],
            dropped={},
            truncated=0,
            group=[str(t) for t in case["mft_task_id"][:, 0]],
        ),
        case["token_nll"],
    )


def step_loss(examples: Examples, nll: np.ndarray, objective: Any, **layout: Any) -> float:
    """The loss of a step made of these rows, cut into batches as `layout` says."""
    shown = objective.rows(examples, 0, COURSE)
    batches = micro_batches(shown, np.arange(len(shown)), device="cuda", **layout)
    total = sum(float(denominator(batch)) for batch in batches)
    found = 0.0
    for batch in batches:
        line, column, _ = targets(batch["labels"])
        for at, (where, start, end) in zip(
            batch["rows"].tolist(), batch["spans"].tolist(), strict=True
        ):
            mine = (line == where) & (column >= start) & (column + 1 < end)
            weights = batch["loss_weights"][line[mine], column[mine] + 1].double().numpy()
            found += float((weights * nll[at][column[mine].numpy() - start]).sum())
    return found / total


LAYOUTS = [
    {"packing": "best_fit", "tokens": 1000},
    {"packing": "best_fit", "tokens": 18},
    {"packing": "none", "tokens": 9},
    {"packing": "none", "tokens": 1000},
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda x: f"{x['packing']}-{x['tokens']}")
@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_balanced_tasks(cases: list[Case], number: int, layout: dict[str, Any]) -> None:
    for case in cases:
        rows = case["mft_rows"]
        examples, nll = examples_of(case, np.ones(len(case["labels"])))
        shares = {str(i): float(w) for i, w in enumerate(case["mft_task_weights"])}
        present = {g: shares[g] for g in {*(examples.group or [])}}
        given = {"case": number, "by": "task"}
        if number in (3, 4):
            given["weights"] = present
        objective = objectives.build("task_balanced", given)
        objective.check(examples.take(rows), COURSE)
        found = step_loss(examples.take(rows), nll[rows], objective, **layout)
        assert found == pytest.approx(float(case[f"mft_case{number}"]), abs=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda x: f"{x['packing']}-{x['tokens']}")
def test_the_mean_over_rows(cases: list[Case], layout: dict[str, Any]) -> None:
    for case in cases:
        examples, nll = examples_of(case, case["sample_weight"])
        found = step_loss(examples, nll, objectives.build("sequence_mean"), **layout)
        assert found == pytest.approx(float(case["loss_weighted_sequence"]), rel=1e-5)


def test_groups_without_weight_count_as_absent(cases: list[Case]) -> None:
    case = cases[0]
    weight = np.array([1.0, 2.0, 1.0, 0.0])  # the last row is its group alone
    examples, nll = examples_of(case, weight)
    found = step_loss(examples, nll, objectives.build("task_balanced"), **LAYOUTS[0])
    without = examples.take(np.arange(3))
    assert found == pytest.approx(
        step_loss(without, nll, objectives.build("sft"), **LAYOUTS[0]), rel=1e-6
    )


def test_the_loss_takes_a_weight_of_each_token() -> None:
    """What FAIT and its kin need: weights within a row."""
    import torch

    labels = torch.tensor([[-100, 1, 2, 0]])
    weights = torch.tensor([[9.0, 1.0, 3.0, 0.0]])
    row, before, _ = targets(labels)
    nll = torch.tensor([1.0, 2.0, 50.0])
    total = denominator({"labels": labels, "loss_weights": weights})
    assert float(total) == 4
    assert float(weighted_mean(nll, weights[row, before + 1], total)) == pytest.approx(7 / 4)


def test_padding_says_where_rows_lie(cases: list[Case]) -> None:
    examples, _ = examples_of(cases[0], np.ones(4))
    batch = padded(examples, [2, 0])
    assert batch["rows"].tolist() == [2, 0]
    assert batch["spans"].tolist() == [[0, 0, 9], [1, 0, 9]]


def test_refusals(cases: list[Case]) -> None:
    examples, _ = examples_of(cases[0], np.ones(4))
    with pytest.raises(RecipeError, match="did you mean dft"):
        objectives.build("dtf")
    with pytest.raises(RecipeError, match=r"kl_weigth.*did you mean kl_weight"):
        objectives.build("asft", {"kl_weigth": 1.0})
    with pytest.raises(RecipeError, match=">= 0"):
        objectives.build("asft", {"kl_weight": -1.0})
    with pytest.raises(RecipeError, match="expected 0 to 1"):
        objectives.build("masked_thought", {"rate": 1.5})
    with pytest.raises(RecipeError, match="use 3 or 4"):
        objectives.build("task_balanced", {"case": 2, "weights": {"a": 1.0}})
    with pytest.raises(RecipeError, match="above 0"):
        objectives.build("task_balanced", {"weights": {"a": 0.0}})
    with pytest.raises(DataError, match="must name every group"):
        objectives.build("task_balanced", {"weights": {"2": 1.0}}).check(examples, COURSE)
    with pytest.raises(RecipeError, match="not in the vocabulary"):
        objectives.build("masked_thought", {"token": "<mask>"}).check(examples, COURSE)


def test_each_objective_says_what_it_is() -> None:
    for name in objectives.names():
        assert objectives.build(name).name == name
        assert all(objectives.describe(name).values())
