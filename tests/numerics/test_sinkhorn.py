"""sinkhorn: potentials of the stored cases, against a plain solver and POT, and hard epsilons."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp

from tamis.errors import DataError
from tamis.numerics import sinkhorn


def rng(seed=0):
    return np.random.default_rng(seed)


def cases(vectors):
    files = sorted(vectors("gotd").glob("case_*.npz"))
    assert files
    told = vectors("gotd").glob("*.[nj]*")
    assert all(path in files or path.name == "summary.json" for path in told)
    return [np.load(path) for path in files]


def calibrated(g):
    return len(g) / (len(g) - 1) * (g - g.mean())


def clouds(seed, n=60, m=20, d=4):
    r = rng(seed)
    x = r.normal(size=(n, d)).astype(np.float32)
    return (r.normal(size=(m, d)) * 0.5 + 1).astype(np.float32), x


def plain(y, x, epsilon, tolerance=1e-12):
    """The definition: dense, log domain, no relaxation."""
    cost = ((y[:, None].astype(float) - x[None].astype(float)) ** 2).sum(axis=2)
    m, n = cost.shape
    f, g = np.zeros(m), np.zeros(n)
    for _ in range(100_000):
        f = epsilon * (-np.log(m) - logsumexp((g - cost) / epsilon, axis=1))
        g = epsilon * (-np.log(n) - logsumexp((f[:, None] - cost) / epsilon, axis=0))
        plan = np.exp((f[:, None] + g - cost) / epsilon)
        if np.abs(plan.sum(axis=1) - 1 / m).sum() < tolerance:
            break
    return f, g, (plan * cost).sum()


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
    monkeypatch.setitem(sinkhorn._BLOCK_CELLS, "cpu", 37 * len(z["emb_target"]))
    parts = sinkhorn.solve(*args, tolerance=1e-6, kernel_bytes=0)
    np.testing.assert_allclose(parts.g, whole.g, atol=1e-9)


def test_small_epsilon_does_not_overflow(vectors):
    z = cases(vectors)[0]
    median = sinkhorn.median_cost(z["emb_target"], z["emb_cand"])
    found = sinkhorn.solve(z["emb_target"], z["emb_cand"], median / 500, tolerance=1e-3)
    assert np.isfinite(found.g).all() and found.error < 0.01
    assert found.cost == pytest.approx(float(z["exact_emd_cost"]), rel=0.02)


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.sampled_from([5.0, 1.0, 0.3]), st.booleans())
def test_equals_the_plain_solver(seed, epsilon, stored):
    y, x = clouds(seed)
    f, g, cost = plain(y, x, epsilon)
    found = sinkhorn.solve(
        y, x, epsilon, tolerance=1e-11, iterations=50_000, kernel_bytes=10**9 if stored else 0
    )
    assert found.converged
    np.testing.assert_allclose(found.g - found.g.mean(), g - g.mean(), atol=1e-8)
    np.testing.assert_allclose(found.f - found.f.mean(), f - f.mean(), atol=1e-8)
    np.testing.assert_allclose(found.f.mean() + found.g.mean(), f.mean() + g.mean(), atol=1e-8)
    assert found.cost == pytest.approx(cost, rel=1e-8)


@pytest.mark.parametrize("method", ["sinkhorn", "sinkhorn_log"])
def test_equals_pot_on_unit_rows(method):
    ot = pytest.importorskip("ot")
    y, x = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in clouds(1, 400, 50, 16))
    epsilon = 0.05 * sinkhorn.median_cost(y, x)
    cost = ot.dist(y.astype(float), x.astype(float))
    _, log = ot.sinkhorn(
        np.full(50, 1 / 50), np.full(400, 1 / 400), cost, epsilon, method=method, stopThr=1e-12,
        numItermax=20_000, log=True,
    )  # fmt: skip
    want = epsilon * (np.log(log["v"]) if method == "sinkhorn" else log["log_v"])
    found = sinkhorn.solve(y, x, epsilon, tolerance=1e-11)
    np.testing.assert_allclose(found.g - found.g.mean(), want - want.mean(), atol=1e-6)


def test_marginals_are_those_of_the_potentials():
    y, x = clouds(3)
    found = sinkhorn.solve(y, x, 0.5, tolerance=1e-6)
    cost = ((y[:, None].astype(float) - x[None].astype(float)) ** 2).sum(axis=2)
    plan = np.exp((found.f[:, None] + found.g - cost) / 0.5)
    np.testing.assert_allclose(plan.sum(axis=0), 1 / 60, atol=1e-12)
    assert np.abs(plan.sum(axis=1) - 1 / 20).sum() < 2e-6
    assert found.cost == pytest.approx((plan * cost).sum(), rel=1e-9)


def test_stored_and_blocked_kernels_agree_at_any_epsilon():
    y, x = clouds(4)
    for epsilon in (20.0, 0.5, 0.02, 0.002):
        for precision, near in (("float64", 1e-8), ("float32", 2e-2)):
            options = {"tolerance": 1e-3, "iterations": 300, "precision": precision}
            stored = sinkhorn.solve(y, x, epsilon, **options)
            blocked = sinkhorn.solve(y, x, epsilon, kernel_bytes=0, **options)
            assert np.isfinite(stored.g).all() and np.isfinite(stored.f).all()
            np.testing.assert_allclose(stored.g, blocked.g, atol=near * max(1.0, epsilon))


def test_far_targets_do_not_vanish():
    y, x = clouds(5)
    y[2] += 100  # its kernel entries are exp(-30000 / 0.5) beside those of the others
    for stored in (0, 10**9):
        found = sinkhorn.solve(y, x, 0.5, kernel_bytes=stored)
        assert found.converged and np.isfinite(found.g).all()
        cost = ((y[:, None].astype(float) - x[None].astype(float)) ** 2).sum(axis=2)
        plan = np.exp((found.f[:, None] + found.g - cost) / 0.5)
        assert plan[2].sum() == pytest.approx(1 / 20, rel=0.05)


def test_momentum_is_found():
    y, x = clouds(6, 300, 60)
    epsilon = 0.01 * sinkhorn.median_cost(y, x)
    runs = {
        momentum: sinkhorn.solve(
            y, x, epsilon, tolerance=1e-8, iterations=20_000, momentum=momentum
        )
        for momentum in (1.0, 1.3, None)
    }
    assert all(run.converged for run in runs.values())
    assert runs[None].iterations < runs[1.3].iterations < runs[1.0].iterations
    np.testing.assert_allclose(calibrated(runs[None].g), calibrated(runs[1.0].g), atol=1e-6)


def test_relaxation_follows_the_theory():
    for rate in (0.05, 0.2, 0.5):
        best = 2 / (1 + np.sqrt(1 - rate))
        assert sinkhorn._relaxation(1.0, rate) == pytest.approx(best)
        # There the error falls by best - 1 each time, and nothing is changed any more.
        assert sinkhorn._relaxation(best, best - 1) == best
        # From too little of it, its slower rate leads to the same: the larger root of
        # (x + w - 1)^2 = x w^2 rate.
        w = 1 + (best - 1) / 2
        half = (w * w * rate - 2 * (w - 1)) / 2
        slower = half + np.sqrt(half * half - (w - 1) ** 2)
        assert sinkhorn._relaxation(w, slower) == pytest.approx(best)
    assert 1 < sinkhorn._relaxation(1.8, 1.2) < 1.8
    assert sinkhorn._relaxation(1.5, 0.999) < 1.8


@pytest.mark.parametrize("stored", [0, 10**9])
def test_a_sweep_tells_the_error_of_both_marginals(stored):
    y, x = clouds(10)
    problem = sinkhorn._Problem(y, x, "float64", "cpu", stored)
    problem.epsilon = 0.7
    cost = ((y[:, None].astype(float) - x[None].astype(float)) ** 2).sum(axis=2)
    problem._sweep(1.0)
    for omega in (1.0, 1.4, 1.7):
        f = problem.f.numpy().copy()
        error = problem._sweep(omega)
        plan = np.exp((f[:, None] + problem.g.numpy() - cost) / 0.7)
        rows, columns = (np.abs(plan.sum(axis=a) - 1 / plan.shape[1 - a]).sum() for a in (0, 1))
        assert error == pytest.approx(rows + columns, rel=1e-6)


def test_a_target_that_vanished_comes_back():
    y, x = clouds(11)
    problem = sinkhorn._Problem(y, x, "float64", "cpu", 0)
    problem.f[2] -= 1000  # exp(-2000) is 0
    error, _ = problem.run(0.5, 1e-6, 500, None)
    assert error <= 1e-6


def test_too_much_momentum_is_given_up():
    y, x = clouds(7)
    found = sinkhorn.solve(y, x, 1.0, tolerance=1e-8, iterations=2000, momentum=1.99)
    assert np.isfinite(found.g).all() and found.error < 1


def test_threads_do_not_matter():
    import torch

    y, x = clouds(8, 500, 60, 16)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(sinkhorn.solve(y, x, 0.5, tolerance=1e-8).g)
    finally:
        torch.set_num_threads(before)
    np.testing.assert_allclose(results[0], results[1], atol=1e-12)


def test_blocked_form_keeps_no_matrix(monkeypatch):
    """No tensor of n x m cells is made where the kernel does not fit its budget."""
    import torch

    y, x = clouds(9, 4000, 500, 8)
    monkeypatch.setitem(sinkhorn._BLOCK_CELLS, "cpu", 50_000)
    largest = 0
    plain_addmm, plain_empty = torch.addmm, torch.empty

    def addmm(*args, **kwargs):
        nonlocal largest
        out = plain_addmm(*args, **kwargs)
        largest = max(largest, out.numel())
        return out

    def empty(*size, **kwargs):
        nonlocal largest
        out = plain_empty(*size, **kwargs)
        largest = max(largest, out.numel())
        return out

    monkeypatch.setattr(torch, "addmm", addmm)
    monkeypatch.setattr(torch, "empty", empty)
    sinkhorn.solve(y, x, 1.0, iterations=3, kernel_bytes=1000)
    assert 0 < largest <= 50_000
    sinkhorn.solve(y, x, 1.0, iterations=3)
    assert largest == 4000 * 500


def test_refuses_nonsense():
    y, x = clouds(0)
    with pytest.raises(DataError, match="epsilon must be above 0, got 0"):
        sinkhorn.solve(y, x, 0.0)
    with pytest.raises(DataError, match="rows on both sides, got 0 and 60"):
        sinkhorn.solve(y[:0], x, 1.0)
