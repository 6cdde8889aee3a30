"""Lazy greedy is plain greedy; stochastic greedy looks at a sample."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.numerics.greedy import lazy, rounded, stochastic


class Coverage:
    """Weighted coverage: the smallest submodular objective there is. Many ties."""

    def __init__(self, sets, weights):
        self.sets, self.weights, self.covered, self.calls = sets, weights, set(), 0

    def gains(self, rows):
        self.calls += len(rows)
        return [sum(self.weights[e] for e in self.sets[r] - self.covered) for r in rows]

    def add(self, row):
        self.covered |= self.sets[row]


def instance(seed, n=20, elements=12):
    rng = np.random.default_rng(seed)
    sets = [set(np.flatnonzero(rng.random(elements) < 0.3).tolist()) for _ in range(n)]
    return sets, rng.choice([0.1, 0.2, 0.3, 1.0], size=elements).tolist()


def plain(sets, weights, k):
    objective, order = Coverage(sets, weights), []
    for _ in range(min(k, len(sets))):
        left = [r for r in range(len(sets)) if r not in order]
        values = [round(v, 9) for v in objective.gains(left)]
        order.append(left[int(np.argmax(values))])
        objective.add(order[-1])
    return order


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 25), st.sampled_from([1, 4, 100]))
def test_lazy_is_plain_greedy(seed, k, batch):
    sets, weights = instance(seed)
    objective = Coverage(sets, weights)
    start = objective.gains(list(range(len(sets))))
    index, gain = lazy(range(len(sets)), start, objective.gains, objective.add, k, batch=batch)
    assert index.tolist() == plain(sets, weights, k)
    assert gain.sum() == pytest.approx(sum(weights[e] for e in objective.covered))
    assert (np.diff(gain) <= 1e-9).all()


def test_lazy_looks_at_few_rows():
    sets, weights = instance(0, n=400, elements=60)
    objective = Coverage(sets, weights)
    start = objective.gains(list(range(400)))
    objective.calls = 0
    lazy(range(400), start, objective.gains, objective.add, 5)
    assert objective.calls < 0.6 * 5 * 400


def test_greedy_guarantee():
    for seed in range(20):
        sets, weights = instance(seed, n=8)
        objective = Coverage(sets, weights)
        _, gain = lazy(range(8), objective.gains(range(8)), objective.gains, objective.add, 3)
        best = max(
            sum(weights[e] for e in set().union(*(sets[r] for r in rows)))
            for rows in itertools.combinations(range(8), 3)
        )
        assert gain.sum() >= (1 - 1 / math.e) * best - 1e-9


def test_successor_enters_when_its_row_is_picked():
    # Three queues; only heads compete: 0-1-2 and 3-4, values fall along each.
    value = [9.0, 2.0, 1.0, 5.0, 4.0]
    after = {0: 1, 1: 2, 3: 4}
    index, gain = lazy(
        [0, 3],
        [9.0, 5.0],
        lambda rows: [value[r] for r in rows],
        lambda row: None,
        10,
        successor=lambda row: (after[row], 99.0) if row in after else None,
    )
    assert index.tolist() == [0, 3, 4, 1, 2] and gain.tolist() == [9, 5, 4, 2, 1]


def test_stochastic_takes_the_best_of_a_sample():
    sets, weights = instance(3, n=50)
    objective = Coverage(sets, weights)
    # epsilon so small that the sample is everything: plain greedy.
    index, _ = stochastic(
        range(50), objective.gains, objective.add, 5, epsilon=1e-9, rng=np.random.default_rng(0)
    )
    assert index.tolist() == plain(sets, weights, 5)
    objective = Coverage(sets, weights)
    index, gain = stochastic(
        range(50), objective.gains, objective.add, 60, epsilon=0.5, rng=np.random.default_rng(0)
    )
    assert sorted(index.tolist()) == list(range(50)) and len(gain) == 50
    assert objective.calls < 50 * 50 / 2


def test_rounding_is_monotone_and_joins_neighbours():
    values = sorted(np.random.default_rng(0).lognormal(0, 20, size=2000).tolist())
    keys = [rounded(v) for v in values]
    assert keys == sorted(keys)
    assert rounded(0.1 + 0.2) == rounded(0.3) and rounded(0.0) == 0.0
    assert rounded(1.0) != rounded(1.0 + 1e-11)


def test_stops_where_rows_that_are_not_here_may_win():
    value = {0: 9.0, 1: 6.0, 2: 5.0, 3: 4.0}

    def run(above):
        gains = lambda rows: [value[r] for r in rows]  # noqa: E731
        return lazy(list(value), list(value.values()), gains, lambda row: None, 9, above=above)[0]

    assert run(None).tolist() == [0, 1, 2, 3]
    # A gain equal to the best outside may belong to a lower row there.
    assert run(5.0).tolist() == [0, 1] and run(4.9).tolist() == [0, 1, 2]
