"""transport: both solvers against brute force, and what happens where POT is absent."""

import importlib.util
import itertools

import numpy as np
import pytest

from tamis.errors import DataError, MissingPackage
from tamis.numerics import transport
from tamis.selectors import Goracs, Pool


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture
def without_pot(monkeypatch):
    """Hide the package."""
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "ot" else real(name, *a)
    )


@pytest.mark.parametrize("solver", ["pot", "scipy"])
def test_equals_the_best_assignment(monkeypatch, solver):
    if solver == "pot":
        pytest.importorskip("ot")
    monkeypatch.setattr(transport, "solver", lambda: solver)
    for seed in range(5):
        cost = rng(seed).uniform(size=(5, 5))
        best = min(
            sum(cost[i, j] for i, j in enumerate(order)) / 5
            for order in itertools.permutations(range(5))
        )
        plan = transport.exact(cost, np.full(5, 0.2))
        assert plan.value == pytest.approx(best, abs=1e-12)
        assert (plan.u[:, None] + plan.w <= cost + 1e-12).all()


def test_solvers_agree_with_unequal_target_weights(monkeypatch):
    pytest.importorskip("ot")
    for seed in range(3):
        cost, b = rng(seed).uniform(size=(7, 20)), rng(seed).dirichlet(np.ones(20))
        values = []
        for solver in ("pot", "scipy"):
            monkeypatch.setattr(transport, "solver", lambda name=solver: name)
            values.append(transport.exact(cost, b).value)
        assert values[0] == pytest.approx(values[1], abs=1e-9)


def test_small_problems_run_without_pot(without_pot):
    assert transport.solver() == "scipy"
    x = rng().normal(size=(40, 3))
    found = Goracs(embedding="v", sample=20, exchanges=2, cut=3).select(
        Pool(40, {"v": x}), 5, rng=rng()
    )
    assert found.facts["solver"] == "scipy" and len(found.index) == 5


def test_large_problems_name_the_package_before_any_work(without_pot, monkeypatch):
    def work(*args):
        raise AssertionError("distances were computed first")

    monkeypatch.setattr("tamis.selectors.goracs._distances", work)
    x = rng().normal(size=(1000, 3))
    with pytest.raises(MissingPackage, match=r"pip install 'tamis\[ot\]'"):
        Goracs(embedding="v", sample=700).select(Pool(1000, {"v": x}), 100, rng=rng())


def test_an_unsolved_problem_is_an_error(monkeypatch):
    pytest.importorskip("ot")
    monkeypatch.setattr(transport, "solver", lambda: "pot")
    monkeypatch.setattr(transport, "_STEPS", 1)
    with pytest.raises(DataError, match="did not end"):
        transport.exact(rng().uniform(size=(20, 50)), np.full(50, 0.02))
