"""gotd: potentials and gradients of the stored cases, the solver by its properties."""

import numpy as np
import pytest

from tamis.errors import DataError, RecipeError
from tamis.numerics import sinkhorn
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


@pytest.mark.parametrize("stored", [True, False])
def test_stored_potentials(vectors, stored):
    for z in cases(vectors):
        found = sinkhorn.solve(
            z["emb_target"],
            z["emb_cand"],
            float(z["eps"]),
            tolerance=1e-10,
            iterations=20_000,
            kernel_bytes=10**9 if stored else 0,
        )
        assert found.converged
        np.testing.assert_allclose(calibrated(found.g), z["tight_calibrated"], atol=1e-6)
        np.testing.assert_allclose(calibrated(found.g), z["pot_calibrated"], atol=1e-6)
        np.testing.assert_allclose(
            found.f - found.f.mean(), z["tight_f"] - z["tight_f"].mean(), atol=1e-6
        )
        assert found.cost == pytest.approx(float(z["tight_transport_cost"]), rel=1e-6)
        assert found.cost >= float(z["exact_emd_cost"]) - 1e-9
        np.testing.assert_allclose(calibrated(found.g)[z["fd_index"]], z["fd_entropic"], atol=2e-6)


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


def test_single_precision_is_close(vectors):
    for z in cases(vectors):
        for stored in (0, 10**9):
            found = sinkhorn.solve(
                z["emb_target"],
                z["emb_cand"],
                float(z["eps"]),
                tolerance=1e-5,
                iterations=5000,
                precision="float32",
                kernel_bytes=stored,
            )
            np.testing.assert_allclose(calibrated(found.g), z["tight_calibrated"], atol=2e-3)


def test_blocks_do_not_matter(vectors, monkeypatch):
    z = cases(vectors)[0]
    args = (z["emb_target"], z["emb_cand"], float(z["eps"]))
    whole = sinkhorn.solve(*args, tolerance=1e-6, kernel_bytes=0)
    monkeypatch.setattr(sinkhorn, "_BLOCK_CELLS", 37 * len(z["emb_target"]))
    parts = sinkhorn.solve(*args, tolerance=1e-6, kernel_bytes=0)
    np.testing.assert_allclose(parts.g, whole.g, atol=1e-9)


def test_small_epsilon_does_not_overflow(vectors):
    z = cases(vectors)[0]
    median = sinkhorn.median_cost(z["emb_target"], z["emb_cand"])
    found = sinkhorn.solve(z["emb_target"], z["emb_cand"], median / 500, tolerance=1e-3)
    assert np.isfinite(found.g).all() and found.error < 0.01
    assert found.cost == pytest.approx(float(z["exact_emd_cost"]), rel=0.02)


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
    with pytest.raises(DataError, match="epsilon"):
        sinkhorn.solve(x, x, 0.0)
    for wrong in ({"epsilon": -1.0}, {"momentum": 2.0}, {"tolerance": 0.0}):
        with pytest.raises(RecipeError, match="gotd"):
            GotD(**wrong)


def test_says_what_it_needs_of_the_target():
    assert GotD.target == "required" and GotD(embedding="v").target_needs() == {"v"}
