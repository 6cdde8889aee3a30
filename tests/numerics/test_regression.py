"""Regressions: stored fits, dense oracles, and what must hold of any residual."""

from __future__ import annotations

import numpy as np
import pytest

from tamis.numerics.mixed import random_intercepts
from tamis.numerics.regression import crossfit, fixed_effects, least_squares, two_stage


def cases(vectors, *fields):
    found = {p.stem: dict(np.load(p)) for p in sorted(vectors("deconfound").glob("*.npz"))}
    kept = {name: z for name, z in found.items() if all(f in z for f in fields)}
    assert kept, f"no case has {fields}"
    return kept.values()


def test_stored_least_squares(vectors):
    for z in cases(vectors, "ols_beta", "design"):
        line = least_squares(z["design"], z["y"])
        np.testing.assert_allclose([line.intercept, *line.slopes], z["ols_beta"], atol=1e-8)
        residual = z["y"] - line.predict(z["design"])
        np.testing.assert_allclose(residual, z["ols_residual"], atol=1e-8)
        np.testing.assert_allclose(residual + z["y"].mean(), z["ols_adjusted"], atol=1e-8)


def test_stored_weights(vectors):
    for z in cases(vectors, "weight", "beta"):
        line = least_squares(z["design"], z["y"], z["weight"])
        np.testing.assert_allclose([line.intercept, *line.slopes], z["beta"], atol=1e-8)
        residual = z["y"] - line.predict(z["design"])
        np.testing.assert_allclose(residual, z["residual"], atol=1e-8)


def test_stored_edge_cases(vectors):
    for z in cases(vectors, "rank", "confounders"):
        known = ~np.isnan(z["y"])
        line = least_squares(z["confounders"][known], z["y"][known])
        assert line.rank == z["rank"]
        residual = z["y"] - line.predict(z["confounders"])
        np.testing.assert_allclose(residual, z["residual"], atol=1e-8)
        codes = np.unique(z["group"], return_inverse=True)[1]
        fit = fixed_effects(np.zeros((len(codes), 0)), z["y_full"], [codes])
        np.testing.assert_allclose(fit.residual, z["group_demeaned"], atol=1e-8)
        assert (fit.residual[fit.alone] == 0).all() and fit.alone.any()


def test_stored_fixed_effects(vectors):
    for z in cases(vectors, "fe_residual"):
        codes = np.unique(z["group"], return_inverse=True)[1]
        fit = fixed_effects(z["design"], z["y"], [codes])
        np.testing.assert_allclose(fit.residual, z["fe_residual"], atol=1e-8)
        np.testing.assert_allclose(fit.residual + z["y"].mean(), z["fe_adjusted"], atol=1e-8)
        whole = fit.line.predict(z["design"]) + fit.effects[0][codes]
        np.testing.assert_allclose(z["y"] - whole, fit.residual, atol=1e-9)
        empty = fixed_effects(np.zeros((len(codes), 0)), z["y"], [codes])
        np.testing.assert_allclose(empty.residual, z["group_mean_residual"], atol=1e-8)


def test_stored_random_effects(vectors):
    for z in cases(vectors, "re_blup"):
        fit = random_intercepts(z["design"], z["y"], z["group"].astype(int), int(z["n_groups"]))
        assert fit.between == pytest.approx(float(z["re_sigma_u2"]), rel=1e-5)
        assert fit.within == pytest.approx(float(z["re_sigma_e2"]), rel=1e-5)
        np.testing.assert_allclose([fit.intercept, *fit.slopes], z["re_beta"], atol=1e-5)
        np.testing.assert_allclose(fit.effects, z["re_blup"], atol=1e-5)
        fixed = fit.intercept + z["design"] @ fit.slopes
        residual = z["y"] - fixed - fit.effects[z["group"]]
        np.testing.assert_allclose(residual, z["re_residual"], atol=1e-5)
        only = z["y"] - fit.effects[z["group"]]
        np.testing.assert_allclose(only, z["re_adjusted_group_only"], atol=1e-5)
        # Over the groups that have rows the plain sum is 0, as there is an intercept.
        assert abs(fit.effects.sum()) < 1e-8


def test_stored_crossfit(vectors):
    for z in cases(vectors, "crossfit_pred"):
        found = crossfit(z["design"], z["y"], z["fold"], float(z["ridge_lambda"]))
        np.testing.assert_allclose(found, z["crossfit_pred"], atol=1e-8)
        np.testing.assert_allclose(z["y"] - found, z["crossfit_residual"], atol=1e-8)


def test_stored_instruments(vectors):
    for z in cases(vectors, "instrument"):
        y, cause, moves = z["y"], z["popularity"], z["instrument"]
        none = np.zeros((len(y), 0))
        fit = two_stage(y, cause, moves[:, None], none)
        np.testing.assert_allclose([fit.intercept, fit.slope], z["beta_2sls"], atol=1e-8)
        assert fit.f == pytest.approx(float(z["first_stage_F"]), rel=1e-8)
        adjusted = y - fit.slope * (cause - cause.mean())
        np.testing.assert_allclose(adjusted, z["adjusted_2sls"], atol=1e-8)
        line = least_squares(cause[:, None], y)
        np.testing.assert_allclose([line.intercept, *line.slopes], z["beta_ols"], atol=1e-8)
        wald = np.cov(moves, y)[0, 1] / np.cov(moves, cause)[0, 1]
        assert fit.slope == pytest.approx(wald, rel=1e-9)
        centred = moves - moves.mean()
        left = y - fit.intercept - fit.slope * cause
        error = np.sqrt(left @ left / (len(y) - 2) * (centred @ centred)) / abs(centred @ cause)
        assert fit.error == pytest.approx(float(error), rel=1e-9)
        itself = two_stage(y, cause, cause[:, None], none)
        assert itself.slope == pytest.approx(float(line.slopes[0]), rel=1e-9)


def made(n=300, p=4, groups=9, seed=0):
    rng = np.random.default_rng(seed)
    x, code = rng.normal(size=(n, p)), rng.integers(groups, size=n)
    y = x @ rng.normal(size=p) + rng.normal(size=groups)[code] + rng.normal(size=n)
    return x, y, code


def test_residuals_are_orthogonal_to_the_weighted_design_whatever_its_units():
    x, y, _ = made()
    x = x * [1, 1e9, 1e-9, 1] + [0, 1.7e9, 0, 5]
    weight = np.random.default_rng(1).uniform(0.1, 3, size=len(y))
    residual = y - least_squares(x, y, weight).predict(x)
    scaled = (x - x.mean(axis=0)) / x.std(axis=0)
    assert np.abs(scaled.T @ (weight * residual)).max() < 1e-8 * len(y)
    assert abs(weight @ residual) < 1e-8 * len(y)


def test_blocks_change_nothing(monkeypatch):
    x, y, _ = made()
    whole = least_squares(x, y)
    monkeypatch.setattr("tamis.numerics.regression.BLOCK", 7)
    np.testing.assert_allclose(least_squares(x, y).slopes, whole.slopes, atol=1e-11)


def test_two_groupings_equal_the_regression_on_dummies():
    x, y, first = made()
    second = np.random.default_rng(5).integers(4, size=len(y))
    dummies = np.column_stack([x, np.eye(9)[first], np.eye(4)[second]])
    dense = dummies @ np.linalg.lstsq(dummies, y, rcond=None)[0]
    fit = fixed_effects(x, y, [first, second])
    np.testing.assert_allclose(fit.residual, y - dense, atol=1e-8)
    whole = fit.line.predict(x) + fit.effects[0][first] + fit.effects[1][second]
    np.testing.assert_allclose(whole, dense, atol=1e-8)
    # A constant a group, or a multiple of a column, is explained away.
    more = y + np.arange(9)[first] * 10.0 + 3 * x[:, 1]
    np.testing.assert_allclose(
        fixed_effects(x, more, [first, second]).residual, y - dense, atol=1e-7
    )


def test_weighted_fixed_effects_equal_weighted_dummies():
    x, y, code = made()
    weight = np.random.default_rng(2).uniform(0.1, 3, size=len(y))
    root = np.sqrt(weight)
    dummies = np.column_stack([x, np.eye(9)[code]])
    b = np.linalg.lstsq(dummies * root[:, None], y * root, rcond=None)[0]
    fit = fixed_effects(x, y, [code], weight)
    np.testing.assert_allclose(fit.residual, y - dummies @ b, atol=1e-8)


def test_a_column_that_only_tells_the_group_adds_nothing():
    x, y, code = made()
    doubled = np.column_stack([x, code * 1.7])
    np.testing.assert_allclose(
        fixed_effects(doubled, y, [code]).residual, fixed_effects(x, y, [code]).residual, atol=1e-8
    )


def reml(x, y, code, between, within):
    """Restricted log-likelihood with dense matrices, but for a constant; to be minimised."""
    z = np.column_stack([np.ones(len(y)), x])
    v = within * np.eye(len(y)) + between * (code[:, None] == code)
    inverse = np.linalg.inv(v)
    gram = z.T @ inverse @ z
    r = y - z @ np.linalg.solve(gram, z.T @ inverse @ y)
    dets = np.linalg.slogdet(v)[1] + np.linalg.slogdet(gram)[1]
    return 0.5 * (dets + r @ inverse @ r)


@pytest.mark.parametrize("seed", range(4))
def test_random_effects_are_at_the_top_of_the_dense_likelihood(seed):
    x, y, code = made(n=90, groups=12, seed=seed)
    fit = random_intercepts(x, y, code, 12)
    best = reml(x, y, code, fit.between, fit.within)
    for a in (0.9, 1.0, 1.1):
        for b in (0.9, 1.0, 1.1):
            assert reml(x, y, code, fit.between * a, fit.within * b) >= best - 1e-9
    for between in (0.0, 0.05, 0.5, 2.0, 20.0):
        assert reml(x, y, code, between, fit.within) >= best - 1e-9


def test_random_effects_at_their_bounds():
    x, y, _ = made()
    line = least_squares(x, y)
    one = random_intercepts(x, y, np.zeros(len(y), dtype=int), 1)
    assert one.between == 0 and one.effects.tolist() == [0]
    np.testing.assert_allclose(one.slopes, line.slopes, atol=1e-9)
    # Groups that say nothing: chance puts the ratio at 0 or near it.
    code = np.arange(len(y)) % 3
    y = y - np.array([y[code == g].mean() for g in range(3)])[code]
    assert random_intercepts(np.zeros((len(y), 0)), y, code, 3).between == 0
    flat = random_intercepts(x, np.full(len(y), 2.5), code, 3)
    assert flat.intercept == pytest.approx(2.5) and np.abs(flat.effects).max() < 1e-12
    # Groups that say all: as fixed effects.
    sure = x @ np.ones(4) + code * 3 + np.random.default_rng(1).normal(size=len(y)) * 1e-2
    fit = random_intercepts(x, sure, code, 3)
    residual = sure - fit.intercept - x @ fit.slopes - fit.effects[code]
    np.testing.assert_allclose(residual, fixed_effects(x, sure, [code]).residual, atol=1e-5)


def test_few_rows_give_a_ridge_and_collinear_columns_the_shortest_slopes():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(5, 8)), rng.normal(size=5)
    line = least_squares(x, y)
    assert line.ridge and np.isfinite(line.slopes).all()
    x = rng.normal(size=(50, 1))
    line = least_squares(np.column_stack([x, x, np.ones(50)]), x[:, 0] * 2)
    assert line.rank == 2 and not line.ridge
    np.testing.assert_allclose(line.slopes, [1, 1, 0], atol=1e-10)


def test_crossfit_does_not_see_its_own_fold():
    x, y, fold = made(groups=5)
    before = crossfit(x, y, fold)
    changed = y.copy()
    changed[0] += 100
    after = crossfit(x, changed, fold)
    own = fold == fold[0]
    assert (before[own] == after[own]).all() and (before[~own] != after[~own]).any()


def test_a_weak_instrument_has_a_low_f_and_controls_are_held_fixed():
    rng = np.random.default_rng(3)
    hidden, moves, control = rng.normal(size=(3, 4000))
    cause = moves + hidden + control + rng.normal(size=4000)
    y = 1.2 * cause + 2 * hidden + 5 * control
    fit = two_stage(y, cause, moves[:, None], control[:, None])
    assert abs(fit.slope - 1.2) < 4 * fit.error and fit.f > 100
    assert two_stage(y, cause, rng.normal(size=(4000, 1)), control[:, None]).f < 10
    assert two_stage(y, cause, control[:, None], control[:, None]).f == 0
