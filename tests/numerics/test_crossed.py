"""Crossed resampling of seeds and rows: against loops, known cases and simulated truths."""

import numpy as np
import pytest
from scipy import stats

from tamis.errors import DataError
from tamis.numerics.crossed import crossed_difference, seed_difference


def figures(rng, seeds=3, rows=40):
    den = rng.integers(0, 6, size=(seeds, rows)).astype(float)
    den[:, 0] = 3.0
    return rng.normal(size=(seeds, rows)) * den, den


def test_the_point_is_the_mean_over_seeds_of_the_differences_of_ratios():
    rng = np.random.default_rng(0)
    (na, da), (nb, db) = figures(rng), figures(rng)
    point, low, high = crossed_difference(na, da, nb, db, rng=rng)
    want = np.mean([na[s].sum() / da[s].sum() - nb[s].sum() / db[s].sum() for s in range(len(na))])
    assert point == pytest.approx(want, abs=1e-12)
    assert low < point < high


def test_the_spread_is_that_of_a_loop_that_draws_rows_and_seeds():
    rng = np.random.default_rng(1)
    seeds, rows = 8, 300
    # Many seeds that differ little: there is next to nothing to stretch.
    na = rng.normal(size=(1, rows)) + 0.1 * rng.normal(size=(seeds, rows))
    nb = rng.normal(size=(1, rows)) + 0.1 * rng.normal(size=(seeds, rows))
    one = np.ones_like(na)
    _, low, high = crossed_difference(na, one, nb, one, resamples=6000, rng=rng)
    draws = []
    for _ in range(6000):
        r, s = rng.integers(rows, size=rows), rng.integers(seeds, size=seeds)
        draws.append(np.mean([na[i, r].mean() - nb[i, r].mean() for i in s]))
    # Of a width of 0.3.
    assert (low, high) == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.01)


def test_rows_both_find_hard_cancel_out_and_seeds_do_not():
    rng = np.random.default_rng(2)
    hard = rng.normal(size=(1, 200)) * 5
    one = np.ones((4, 200))
    noise = 0.01 * rng.normal(size=(4, 200))
    _, low, high = crossed_difference(hard + 0.1 + noise, one, hard + 0 * one, one, rng=rng)
    assert high - low < 0.02 and low > 0
    seeds = np.array([[0.4], [-0.3], [0.5], [-0.2]])
    _, low, high = crossed_difference(hard + seeds + noise, one, hard + 0 * one, one, rng=rng)
    assert low < 0 < high


def test_the_same_generator_gives_the_same_interval():
    rng = np.random.default_rng(3)
    (na, da), (nb, db) = figures(rng), figures(rng)
    first, again = (
        crossed_difference(na, da, nb, db, rng=np.random.default_rng(7)) for _ in range(2)
    )
    assert first == again


def test_equal_figures_have_no_difference_at_all():
    rng = np.random.default_rng(4)
    na, da = figures(rng)
    assert crossed_difference(na, da, na, da, rng=rng) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("seeds", "seed_sd", "row_sd", "noise"), [(3, 1.0, 0.5, 1.0), (3, 0.1, 3.0, 1.0), (5, 1, 0, 0)]
)
def test_the_interval_covers_the_truth_about_as_often_as_it_says(seeds, seed_sd, row_sd, noise):
    """Left as they were drawn, the bounds of the first and the last case cover in about 75 %."""
    rng = np.random.default_rng(5)
    rows, runs, covered = 60, 800, 0
    one = np.ones((seeds, rows))
    for _ in range(runs):
        d = (
            0.3
            + seed_sd * rng.normal(size=(seeds, 1))
            + row_sd * rng.normal(size=(1, rows))
            + noise * rng.normal(size=(seeds, rows))
        )
        _, low, high = crossed_difference(d, one, 0 * one, one, resamples=100, rng=rng)
        covered += low <= 0.3 <= high
    assert 0.90 <= covered / runs <= 0.995


def test_one_seed_resamples_rows_alone():
    rng = np.random.default_rng(6)
    na, nb, one = rng.normal(size=(1, 500)), rng.normal(size=(1, 500)), np.ones((1, 500))
    point, low, high = crossed_difference(na, one, nb, one, resamples=4000, rng=rng)
    reach = 1.96 * (na - nb).std() / np.sqrt(500)
    assert (low, high) == pytest.approx((point - reach, point + reach), rel=0.08)


def test_seeds_alone_are_a_paired_t_test():
    a, b = np.array([1.0, 2.0, 4.0]), np.array([0.5, 1.9, 2.0])
    point, low, high = seed_difference(a, b)
    want = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (point, low, high) == pytest.approx(((a - b).mean(), want.low, want.high))
    assert seed_difference([1.0], [0.0]) == (1.0, -np.inf, np.inf)


@pytest.mark.parametrize(
    ("den", "match"),
    [(np.zeros((2, 3)), "not all 0"), (np.ones((2, 2)), "one shape"), (np.nan, "one shape")],
)
def test_what_has_no_ratio_is_refused(den, match):
    one = np.ones((2, 3))
    with pytest.raises(DataError, match=match):
        crossed_difference(one, den, one, one, rng=np.random.default_rng(0))
