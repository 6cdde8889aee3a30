"""Budgets are split exactly, by the rule of the stored cases, within floors and caps."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.errors import RecipeError
from tamis.numerics.allocate import allocate


def test_stored_cases(vectors):
    cases = json.loads((vectors("kmeans") / "allocation.json").read_text())
    for case in cases:
        got = allocate(case["cap"], case["total"], case["weights"])
        assert got.tolist() == case["expected"], case


def test_proportional_budget_of_the_static_cases(vectors):
    files = sorted(vectors("kmeans").glob("static*.npz"))
    assert files
    for path in files:
        z = np.load(path)
        got = allocate(z["cluster_size"], int(z["coreset_size"]))
        assert got.tolist() == z["budget_proportional"].tolist()


def test_allocation_of_the_iterative_cases(vectors):
    files = sorted(vectors("kmeans").glob("iterative*.npz"))
    assert files
    for path in files:
        z = np.load(path)
        got = allocate(
            z["remaining_per_cluster"], int(z["iteration_budget"]), z["weights_multiplicative"]
        )
        assert got.tolist() == z["allocation"].tolist(), path.name


groups = st.integers(1, 8).flatmap(
    lambda g: st.tuples(
        st.lists(st.integers(0, 40), min_size=g, max_size=g),
        st.lists(st.sampled_from([0.0, 0.1, 1.0, 1.0, 3.5, 1e-9, 1e9]), min_size=g, max_size=g),
        st.lists(st.integers(0, 10), min_size=g, max_size=g),
        st.lists(st.integers(0, 50), min_size=g, max_size=g),
        st.integers(0, 200),
    )
)


@settings(max_examples=400, deadline=None)
@given(groups)
def test_exact_sum_within_bounds(case):
    sizes, weights, floors, caps, k = case
    room = np.minimum(sizes, caps)
    low = np.minimum(floors, room)
    if low.sum() > k:
        with pytest.raises(RecipeError, match="floors"):
            allocate(sizes, k, weights, floors, caps)
        return
    got = allocate(sizes, k, weights, floors, caps)
    assert got.sum() == min(k, room.sum())
    assert (got >= low).all() and (got <= room).all()
    # A group below its cap is not passed over in favour of another with the same weight above it.
    for i, j in itertools.permutations(range(len(sizes)), 2):
        if weights[i] == weights[j] and got[i] > max(got[j], low[i]) + 1:
            assert got[j] == room[j]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 1000), min_size=1, max_size=12), st.integers(0, 100))
def test_within_one_of_the_share_when_nothing_binds(weights, k):
    share = np.asarray(weights) / np.sum(weights) * k
    got = allocate(np.full(len(weights), 10_000), k, weights)
    assert (np.abs(got - share) < 1).all()


def test_floors_take_from_the_others_in_proportion():
    assert allocate([100, 100, 100], 30, [1, 1, 4], floors=[9, 0, 0]).tolist() == [9, 4, 17]
    assert allocate([100, 100], 10, [0, 1], floors=[3, 0]).tolist() == [3, 7]
    assert allocate([5, 100], 10, [1, 1], floors=[50, 0]).tolist() == [5, 5]


def test_refuses_nonsense():
    with pytest.raises(RecipeError, match="0 or more"):
        allocate([1], -1)
    with pytest.raises(RecipeError, match="weights"):
        allocate([1, 2], 1, [1.0])
    with pytest.raises(RecipeError, match="weights"):
        allocate([1, 2], 1, [1.0, float("nan")])
    with pytest.raises(RecipeError, match="caps"):
        allocate([1, 2], 1, caps=[1.5, 2])
    assert allocate([], 5).tolist() == []
