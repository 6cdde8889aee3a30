"""Sampling without replacement has the right distribution."""

import itertools

import numpy as np

from tamis.numerics.sampling import draw, first_of_groups


def order_probabilities(weights, count):
    """Every ordered draw without replacement and its probability."""
    table = {}
    for order in itertools.permutations(range(len(weights)), count):
        left, p = weights.sum(), 1.0
        for i in order:
            p *= weights[i] / left
            left -= weights[i]
        table[order] = p
    return table


def test_distribution_equals_enumeration():
    weights = np.array([1.0, 2.0, 3.0, 0.5, 4.0])
    repeats = 20_000
    rng = np.random.default_rng(11)
    groups = np.repeat(np.arange(repeats), 5)
    drawn = draw(
        groups,
        np.full(repeats, 2),
        np.tile(np.log(weights), repeats),
        rng.gumbel(size=5 * repeats),
    ).reshape(repeats, 2)
    drawn -= np.arange(repeats)[:, None] * 5
    want = order_probabilities(weights, 2)
    got = {order: 0 for order in want}
    for a, b in drawn.tolist():
        got[a, b] += 1
    chi = sum((got[o] - repeats * p) ** 2 / (repeats * p) for o, p in want.items())
    assert chi < 48.0  # 19 degrees of freedom: p > 1e-4 is 50.8


def test_counts_groups_and_order():
    groups = np.array([2, 0, 2, 0, 1, 2])
    keys = np.array([1.0, 5.0, 3.0, 5.0, 0.0, 2.0])
    assert first_of_groups(groups, np.array([1, 0, 2]), keys).tolist() == [1, 2, 5]
    assert first_of_groups(groups, np.array([9, 9, 9]), keys).tolist() == [1, 3, 4, 2, 5, 0]


def test_zero_weight_comes_last():
    for seed in range(50):
        noise = np.random.default_rng(seed).gumbel(size=3)
        got = draw(
            np.zeros(3, dtype=np.int64), np.array([3]), np.array([-np.inf, 0.0, -np.inf]), noise
        )
        assert got.tolist() == [1, 0, 2]
