"""Bootstrap intervals: right centre, right width, right coverage."""

import itertools

import numpy as np
import pytest

from tamis.errors import DataError
from tamis.numerics import bootstrap


def rng(seed=0):
    return np.random.default_rng(seed)


def test_mean_interval_has_the_textbook_width():
    values = rng(1).normal(3.0, 2.0, size=2000)
    point, low, high = bootstrap.interval(values, rng=rng(), resamples=4000)
    se = values.std() / np.sqrt(len(values))
    assert point == pytest.approx(values.mean(), rel=1e-12)
    assert low == pytest.approx(point - 1.96 * se, abs=0.12 * se)
    assert high == pytest.approx(point + 1.96 * se, abs=0.12 * se)


def test_ratio_of_sums_is_not_the_mean_of_ratios():
    num, den = np.array([1.0, 100.0]), np.array([1.0, 50.0])
    point, low, high = bootstrap.ratio_interval(num, den, rng=rng())
    assert point == pytest.approx(101 / 51)
    assert (low, high) == (1.0, 2.0)


def test_tiny_case_equals_enumeration():
    num, den = np.array([1.0, 4.0, 2.0]), np.array([2.0, 1.0, 5.0])
    ratios = np.array(
        [
            num[list(draw)].sum() / den[list(draw)].sum()
            for draw in itertools.product(range(3), repeat=3)
        ]
    )
    _, low, high = bootstrap.ratio_interval(num, den, rng=rng(), resamples=20_000, level=0.5)
    for got, level in [(low, 0.25), (high, 0.75)]:
        assert (ratios < got - 1e-12).mean() - 0.02 < level < (ratios <= got + 1e-12).mean() + 0.02


def test_paired_difference_cancels_what_rows_share():
    hard = rng(2).normal(5, 3, size=400)
    tokens = rng(3).integers(1, 50, size=400)
    a = (hard + 0.1 + rng(4).normal(0, 0.05, size=400)) * tokens
    b = hard * tokens
    point, low, high = bootstrap.paired_difference(a, tokens, b, tokens, rng=rng())
    assert low < 0.1 < high and high - low < 0.03
    assert point == pytest.approx(a.sum() / tokens.sum() - b.sum() / tokens.sum())
    same = bootstrap.paired_difference(b, tokens, b, tokens, rng=rng())
    assert same == (0.0, 0.0, 0.0)


def test_coverage_is_near_the_level():
    inside = 0
    for seed in range(200):
        draws = rng(seed).exponential(size=80)
        _, low, high = bootstrap.interval(draws, rng=rng(seed + 1), resamples=400)
        inside += low <= 1.0 <= high
    assert 170 <= inside <= 200


def test_blocks_do_not_change_the_result(monkeypatch):
    values = rng(5).normal(size=50)
    whole = bootstrap.interval(values, rng=rng(6), resamples=64)
    monkeypatch.setattr(bootstrap, "_CELLS", 170)
    assert bootstrap.interval(values, rng=rng(6), resamples=64) == whole


def test_weights_are_those_of_the_rows():
    point, _, _ = bootstrap.interval([1.0, 3.0], [3.0, 1.0], rng=rng())
    assert point == 1.5
    assert bootstrap.interval([7.0], rng=rng()) == (7.0, 7.0, 7.0)


def test_refuses_nonsense():
    for num, den in [([], []), ([1.0], [1.0, 2.0]), ([np.nan], [1.0]), ([1.0], [0.0]), ([1], [-1])]:
        with pytest.raises(DataError):
            bootstrap.ratio_interval(num, den, rng=rng())
    with pytest.raises(DataError, match="same rows"):
        bootstrap.paired_difference([1.0], [1.0], [1.0, 2.0], [1.0, 1.0], rng=rng())
