"""gotd: gradients and picks of the stored cases, and what holds for any."""

import numpy as np
import pytest

from tamis.errors import DataError, RecipeError
from tamis.selectors import GotD, Pool


def rng(seed=0):
    return np.random.default_rng(seed)


def cases(vectors):
    files = sorted(vectors("gotd").glob("case_*.npz"))
    assert files
    return [np.load(path) for path in files]


def pool_of(x, y):
    return Pool(len(x), {"embed.vector": x}, target=Pool(len(y), {"embed.vector": y}))


def calibrated(g):
    return len(g) / (len(g) - 1) * (g - g.mean())


def test_stored_selections(vectors):
    from scipy.stats import spearmanr

    for z in cases(vectors):
        pool = pool_of(z["emb_cand"], z["emb_target"])
        method = GotD(epsilon=float(z["eps"]), normalize=False, tolerance=1e-8, iterations=20_000)
        found = method.select(pool, pool.n, rng=rng())
        np.testing.assert_allclose(found.rows["gradient"], z["tight_calibrated"], atol=1e-6)
        value = z["tight_calibrated"]
        # Order is stable but for gradients closer than 1e-6.
        assert (np.diff(value[found.index]) > -1e-6).all()
        loose = spearmanr(found.rows["gradient"], z["ott_calibrated"]).statistic
        assert loose >= 0.98
        away = GotD(epsilon=float(z["eps"]), normalize=False, tolerance=1e-8, direction="away")
        top = away.select(pool, 5, rng=rng()).index
        assert (value[top] >= np.sort(value)[-5] - 1e-6).all()


def test_properties():
    r = rng(1)
    x = r.normal(size=(80, 5)).astype(np.float32)
    y = (r.normal(size=(30, 5)) * 0.3 + 1.5).astype(np.float32)
    x[40:60] += 1.5  # these are like the target
    x[5] = x[4]
    method = GotD(normalize=False, tolerance=1e-9)
    found = method.select(pool_of(x, y), 80, rng=rng())
    gradient = found.rows["gradient"]
    assert gradient.sum() == pytest.approx(0, abs=1e-9)
    assert gradient[40:60].mean() < gradient[:40].mean()
    assert gradient[4] == pytest.approx(gradient[5], abs=1e-12)
    moved = method.select(pool_of(x + 3, y + 3), 80, rng=rng())
    np.testing.assert_allclose(moved.rows["gradient"], gradient, atol=1e-5)
    scaled = method.select(pool_of(x * 2, y * 2), 80, rng=rng())
    np.testing.assert_allclose(scaled.rows["gradient"], 4 * gradient, atol=1e-6)
    assert scaled.index.tolist() == found.index.tolist()


def test_zero_vectors_and_single_rows_are_points_like_others():
    x = rng(3).normal(size=(30, 4))
    x[7] = 0
    found = GotD().select(pool_of(x, x[:5]), 30, rng=rng())
    assert sorted(found.index.tolist()) == list(range(30))
    same = GotD().select(pool_of(np.zeros((4, 3)), np.zeros((2, 3))), 4, rng=rng())
    assert same.index.tolist() == [0, 1, 2, 3] and (same.gain == 0).all()
    one = GotD().select(pool_of(x[:1], x[:3]), 1, rng=rng())
    assert one.index.tolist() == [0] and one.gain.tolist() == [0]


def test_moving_mass_to_the_best_row_lowers_the_exact_cost():
    ot = pytest.importorskip("ot")
    r = rng(4)
    x = r.normal(size=(40, 3)).astype(np.float32)
    y = (r.normal(size=(15, 3)) * 0.4 + 1).astype(np.float32)
    best = GotD(normalize=False, relative_epsilon=0.005).select(pool_of(x, y), 1, rng=rng()).index
    cost = ((y[:, None].astype(float) - x[None].astype(float)) ** 2).sum(axis=2)
    a, b = np.full(15, 1 / 15), np.full(40, 1 / 40)
    moved = (1 - 1e-3) * b
    moved[best] += 1e-3
    assert ot.emd2(a, moved, cost) < ot.emd2(a, b, cost)


def test_says_when_it_did_not_converge():
    r = rng(2)
    found = GotD(iterations=1).select(
        pool_of(r.normal(size=(50, 4)), r.normal(size=(20, 4)) + 1), 5, rng=rng()
    )
    assert found.facts["converged"] == 0 and found.facts["marginal_error"] > 1e-3


def test_refuses_nonsense():
    x = rng().normal(size=(4, 3))
    with pytest.raises(DataError, match="needs a target"):
        GotD().select(Pool(4, {"embed.vector": x}), 2, rng=rng())
    with pytest.raises(DataError, match="3 numbers a row in the pool and 2"):
        GotD().select(pool_of(x, x[:, :2]), 2, rng=rng())
    for bad in (np.nan, np.inf):
        y = x.copy()
        y[2, 0] = bad
        for pool in (pool_of(x, y), pool_of(y, x)):
            with pytest.raises(DataError, match=r"embed\.vector has NaN or infinity in 1 of"):
                GotD().select(pool, 2, rng=rng())
    with pytest.raises(DataError, match="needs a target"):
        GotD().select(pool_of(x, x[:0]), 2, rng=rng())
    for wrong in ({"epsilon": -1.0}, {"momentum": 2.0}, {"tolerance": 0.0}):
        with pytest.raises(RecipeError, match="gotd"):
            GotD(**wrong)


def test_says_what_it_needs_of_the_target():
    assert GotD.target == "required" and GotD(embedding="v").target_needs() == {"v"}
