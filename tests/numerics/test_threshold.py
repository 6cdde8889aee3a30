"""The similarity filter equals the literal loop, whatever the block size."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.numerics.threshold import blockwise_filter, greedy_filter


def unit(x):
    wide = x.astype(np.float64)
    norm = np.linalg.norm(wide, axis=1, keepdims=True)
    return wide / np.where(norm > 0, norm, 1)


def loop(x, order, tau, limit):
    """One row at a time in float64: kept positions, what the others fell to."""
    u = unit(x)[order]
    kept, nearest, similarity = [], [], []
    for i in range(len(order)):
        if len(kept) >= limit:
            break
        cos = np.clip(u[kept] @ u[i], -1, 1) if kept else np.empty(0)
        fallen = bool(kept) and cos.max() > tau
        nearest.append(kept[cos.argmax()] if fallen else -1)
        similarity.append(cos.max() if fallen else np.nan)
        if not fallen:
            kept.append(i)
    return kept, nearest, similarity


def clustered(n, width, spread, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(n // 3, width))
    return (
        centres[rng.integers(len(centres), size=n)] + spread * rng.normal(size=(n, width))
    ).astype(np.float32)


@pytest.mark.parametrize("block", [None, 50, 2000])
@pytest.mark.parametrize("limit", [150, 10_000])
@pytest.mark.parametrize("spread, tau", [(0.3, 0.9), (0.1, 0.9), (0.3, 0.2), (2.0, 0.05)])
def test_equals_the_loop_where_a_bound_is_used_or_tells_too_little(block, limit, spread, tau):
    x = clustered(900, 128, spread)
    x[5] = 0
    order = np.random.default_rng(1).permutation(900)
    kept, nearest, similarity = loop(x, order, tau, limit)
    got = greedy_filter(x, order, tau, limit, block=block)
    assert got.kept.tolist() == kept
    assert got.nearest.tolist() == nearest
    np.testing.assert_allclose(got.similarity, similarity, atol=1e-6)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 600))
def test_tau_at_a_pair_s_own_cosine_where_a_bound_is_used(seed, block):
    x = clustered(600, 96, 0.3, seed)
    u = unit(x)
    order = np.arange(600)
    pairs = np.argwhere(np.triu(u @ u.T > 0.85, 1))
    i, j = pairs[seed % len(pairs)]
    tau = float(np.clip(u[i] @ u[j], -1, 1))
    reference = greedy_filter(x, order, tau, 600, block=1).kept.tolist()
    assert greedy_filter(x, order, tau, 600, block=block).kept.tolist() == reference
    # Just below the limit for a bound, so decided by the dense products.
    few = greedy_filter(x, order[:511], tau, 600, block=block).kept
    assert few.tolist() == [row for row in reference if row < 511]


@pytest.mark.parametrize("block", [None, 1, 2, 17, 1000])
@pytest.mark.parametrize("limit", [1, 40, 10_000])
@pytest.mark.parametrize("tau", [-0.2, 0.3, 0.8])
def test_equals_the_loop(block, limit, tau):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(700, 6)).astype(np.float32)
    order = rng.permutation(700)
    kept, nearest, similarity = loop(x, order, tau, limit)
    got = greedy_filter(x, order, tau, limit, block=block)
    assert got.kept.tolist() == kept
    assert got.nearest.tolist() == nearest
    np.testing.assert_allclose(got.similarity, similarity, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 64))
def test_tau_at_a_pair_s_own_cosine(seed, block):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(60, 48)).astype(np.float32)
    u = unit(x)
    i, j = rng.choice(60, 2, replace=False)
    tau = float(np.clip(u[i] @ u[j], -1, 1))
    order = np.arange(60)
    reference = greedy_filter(x, order, tau, 60, block=1).kept.tolist()
    assert greedy_filter(x, order, tau, 60, block=block).kept.tolist() == reference


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([-1.0, 0.0, 0.5, 1.0]), st.integers(1, 9))
def test_ties_on_a_grid(seed, tau, block):
    rng = np.random.default_rng(seed)
    x = np.eye(4, dtype=np.float32)[rng.integers(0, 4, size=25)] * rng.integers(0, 3, size=(25, 1))
    x *= rng.choice([-1, 1], size=(25, 1)).astype(np.float32)
    order = rng.permutation(25)
    got = greedy_filter(x.astype(np.float32), order, tau, 25, block=block)
    assert got.kept.tolist() == loop(x, order, tau, 25)[0]


def test_many_near_ties_are_settled():
    rng = np.random.default_rng(3)
    base = rng.normal(size=16)
    x = (base + 1e-4 * rng.normal(size=(400, 16))).astype(np.float32)
    tau = 1 - 5e-9
    order = np.arange(400)
    want = loop(x, order, tau, 400)[0]
    assert 1 < len(want) < 400
    for block in (1, 33, 400):
        assert greedy_filter(x, order, tau, 400, block=block).kept.tolist() == want


def test_squared_distance_filter_of_the_kmeans_repository(vectors):
    files = sorted(vectors("kmeans").glob("greedy_threshold*.npz"))
    assert files
    for path in files:
        z = np.load(path)
        assert (np.diff(z["scores"][z["ranking"]]) <= 0).all()
        tau = 1 - float(z["threshold_sq_l2"]) / 2
        got = greedy_filter(z["embeddings"], z["ranking"], tau, int(z["budget"]))
        assert z["ranking"][got.kept].tolist() == z["selected"].tolist()


def test_block_rule_with_one_row_is_the_plain_rule():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(200, 5)).astype(np.float32)
    order = rng.permutation(200)
    plain = greedy_filter(x, order, 0.5, 30).kept.tolist()
    assert blockwise_filter(x, order, 0.5, 30, 1).tolist() == plain
    assert len(blockwise_filter(x, order, 0.5, 200, 50)) < len(
        greedy_filter(x, order, 0.5, 200).kept
    )


def test_near_copies_just_on_either_side_of_a_high_threshold():
    # Nearly parallel rows: here the bound is hardly above the cosine itself.
    r = np.random.default_rng(8)
    base = unit(r.normal(size=(400, 128)))
    other = r.normal(size=(400, 128))
    other = unit(other - (other * base).sum(axis=1, keepdims=True) * base)
    cos = np.where(np.arange(400) % 2, 0.9992, 0.9988)[:, None]
    x = np.concatenate([base, cos * base + np.sqrt(1 - cos**2) * other]).astype(np.float32)
    got = greedy_filter(x, np.arange(800), 0.999, 800)
    assert got.kept.tolist() == [*range(400), *range(400, 800, 2)]
    assert got.nearest[401::2].tolist() == list(range(1, 400, 2))
