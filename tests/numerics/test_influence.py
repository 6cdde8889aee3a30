"""Influence on a surrogate's risk: the official recursion, the exact inverse, leave-one-out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tamis.errors import DataError
from tamis.numerics.influence import Gradients, SoftmaxRegression, fit, lissa, solve


def cases(vectors: Callable[[str], Path]) -> list[Any]:
    found = [np.load(path) for path in sorted(vectors("dealrec").glob("influence_*.npz"))]
    assert found
    return found


def surrogate(case: Any) -> SoftmaxRegression:
    return SoftmaxRegression(case["X"], case["y"], case["W"].astype(np.float64))


def test_gradients_of_rows(vectors: Callable[[str], Path]) -> None:
    for case in cases(vectors):
        model, rows = surrogate(case), case["per_sample_grad"].astype(np.float64)
        direction = np.random.default_rng(0).normal(size=rows.shape[1])
        np.testing.assert_allclose(model.dots(direction), rows @ direction, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(model.gradient(), rows.mean(axis=0), atol=1e-7)


def test_the_official_recursion(vectors: Callable[[str], Path]) -> None:
    for case in cases(vectors):
        model, v = surrogate(case), case["v"].astype(np.float64).reshape(-1)
        runs = np.split(case["index_sequence"], int(case["iteration"]))
        given = {"damp": float(case["damp"]), "scale": float(case["scale"])}
        h = np.mean([lissa(model, v, run, **given) for run in runs], axis=0)
        np.testing.assert_allclose(h, case["h"], rtol=1e-5, atol=1e-5 * np.abs(case["h"]).max())
        found = model.dots(h)
        expected = case["per_sample_grad"].astype(np.float64) @ case["h"]
        np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())
        if len(runs) == 1:
            np.testing.assert_allclose(found, case["influence"], atol=2e-5 * np.abs(found).max())


def test_the_exact_damped_inverse(vectors: Callable[[str], Path]) -> None:
    for case in cases(vectors):
        model, v = surrogate(case), case["v"].astype(np.float64).reshape(-1)
        scale, damping = float(case["scale"]), float(case["damp"] * case["scale"])
        h = scale * solve(model, v, damping=damping)
        np.testing.assert_allclose(h, case["h_exact_damped"], rtol=1e-6)
        expected = case["influence_exact_damped"]
        np.testing.assert_allclose(model.dots(h), expected, rtol=1e-6, atol=1e-6)


def made(seed: int, n: int = 20, p: int = 2, c: int = 2) -> SoftmaxRegression:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, p))
    y = (x @ rng.normal(size=(p, c)) + rng.gumbel(size=(n, c))).argmax(axis=1)
    return SoftmaxRegression(x, y, rng.normal(size=(c, p)))


def test_products_are_those_of_the_explicit_hessian_and_the_losses() -> None:
    model = made(0, n=7, p=3, c=4)
    rng = np.random.default_rng(1)
    h = rng.normal(size=12)
    step = 1e-6

    def moved(by: float) -> SoftmaxRegression:
        return SoftmaxRegression(model.x, model.y, model.w + by * h.reshape(4, 3))

    slope = (moved(step).gradient() - moved(-step).gradient()) / (2 * step)
    np.testing.assert_allclose(model.product(h), slope, atol=1e-7)
    loss = (moved(step).loss() - moved(-step).loss()) / (2 * step)
    assert model.dots(h).mean() == pytest.approx(loss, abs=1e-7)
    assert model.dots(h).mean() == pytest.approx(h @ model.gradient(), abs=1e-12)
    hessian = np.stack([model.product(row) for row in np.eye(12)])
    assert model.trace() == pytest.approx(np.trace(hessian))
    np.testing.assert_allclose(hessian, hessian.T, atol=1e-12)
    some = np.array([5, 2, 2])
    part = SoftmaxRegression(model.x[some], model.y[some], model.w)
    np.testing.assert_allclose(model.product(h, some), part.product(h), atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_influence_foretells_the_loss_without_a_row(seed: int) -> None:
    """Training again without each row changes another risk as h . g / n says."""
    whole, other, decay = made(seed), made(seed + 100, n=200), 0.05
    model = fit(whole.x, whole.y, 2, decay=decay)
    risk = SoftmaxRegression(other.x, other.y, model.w)
    h = solve(model, risk.gradient(), damping=decay)
    change = []
    for i in range(len(whole.x)):
        rest = np.delete(np.arange(len(whole.x)), i)
        again = fit(whole.x[rest], whole.y[rest], 2, decay=decay)
        change.append(SoftmaxRegression(other.x, other.y, again.w).loss() - risk.loss())
    assert np.corrcoef(change, model.dots(h))[0, 1] > 0.9


def test_gradients_alone() -> None:
    rng = np.random.default_rng(0)
    g = rng.normal(size=(50, 6))
    model = Gradients(g.astype(np.float32))
    h = solve(model, model.gradient(), damping=0.3)
    assert model.trace() == pytest.approx(np.trace(g.T @ g / 50), rel=1e-6)
    expected = np.linalg.solve(g.T @ g / 50 + 0.3 * np.eye(6), g.mean(axis=0))
    np.testing.assert_allclose(h, expected, rtol=1e-5)
    np.testing.assert_allclose(model.dots(h), g @ expected, rtol=1e-4, atol=1e-6)
    some = np.array([3, 1])
    np.testing.assert_allclose(model.product(h, some), g[some].T @ (g[some] @ h) / 2, rtol=1e-5)


def test_a_recursion_that_diverges_says_so() -> None:
    model = SoftmaxRegression(np.full((4, 1), 1e3), np.array([0, 1, 0, 1]), np.zeros((2, 1)))
    with pytest.raises(DataError, match="diverged with scale 25"):
        lissa(model, np.array([1.0, -1.0]), [0, 1, 2, 3] * 200)
    negative = Gradients(np.zeros((3, 2)))
    with pytest.raises(DataError, match="with damping 0: raise it"):
        solve(negative, np.array([1.0, 0.0]), damping=0.0)
