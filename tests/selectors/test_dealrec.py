"""dealrec: scores, groups and counts of the stored runs; the draw by its properties."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.errors import RecipeError
from tamis.selectors import DealRec, Pool
from tamis.selectors.dealrec import shares


def rng(seed=0):
    return np.random.default_rng(seed)


def pool_of(influence, effort):
    return Pool(len(influence), {"influence.value": influence, "gradient.norm": effort})


def test_stored_selections(vectors):
    files = sorted(vectors("dealrec").glob("select_*.npz"))
    assert files
    for path in files:
        z = np.load(path)
        method = DealRec(
            weight=float(z["lamda"]), groups=int(z["k"]), hard_prune=float(z["hard_prune"])
        )
        pool = pool_of(z["influence"], z["effort"])
        found = method.select(pool, int(z["m"]), rng=rng())
        np.testing.assert_allclose(found.gain, z["overall"][found.index], atol=1e-6)
        rest = z["pool_indices"]
        label = found.rows["cluster"]
        # Equal scores at the cut may be exchanged, so scores are compared, not rows.
        np.testing.assert_allclose(
            np.sort(z["overall"][label >= 0]), np.sort(z["overall"][rest]), atol=1e-6
        )
        counts = z["group_counts"].copy()
        counts[-1] += int(z["n_unbinned"])
        assert np.bincount(label[label >= 0], minlength=len(counts)).tolist() == counts.tolist()
        taken = np.bincount(label[found.index], minlength=len(counts))
        assert taken.tolist() == shares(counts, int(z["m"])).tolist()
        if z["n_unbinned"] == 0:
            assert taken.tolist() == z["selected_per_group"].tolist()
        assert shares(z["group_counts"], int(z["m"])).tolist() == z["selected_per_group"].tolist()
        check_groups(z, method, label)


def check_groups(z, method, label):
    """Edges and groups of the official pool, and what was drawn from it."""
    rest, groups = z["pool_indices"], z["group_of_pool"]
    overall = z["overall"].astype(np.float64)
    assert (np.diff(overall[rest]) <= 0).all()
    low, high = overall[rest].min(), overall[rest].max()
    edges = low + (high - low) * np.arange(1, int(z["k"]) + 1) / int(z["k"])
    np.testing.assert_allclose(z["edges"], edges, atol=1e-6)
    # Rows that fell out of every group through rounding belong to the last.
    assert (groups < 0).sum() == z["n_unbinned"]
    want = np.where(groups < 0, int(z["k"]) - 1, groups)
    here = label[rest] >= 0
    assert (label[rest][here] == want[here]).all() and here.mean() > 0.95
    picked = z["selected"]
    assert len(set(picked.tolist())) == len(picked) and np.isin(picked, rest).all()
    group = dict(zip(rest.tolist(), groups.tolist(), strict=True))
    taken = np.bincount([group[row] for row in picked.tolist()], minlength=int(z["k"]))
    assert taken.tolist() == z["selected_per_group"].tolist()
    # Above the pool lie the rows that are too hard.
    outside = np.setdiff1d(np.arange(len(overall)), rest)
    assert len(outside) == int(method.hard_prune * len(overall))
    assert len(outside) == 0 or overall[outside].min() >= overall[rest].max() - 1e-6


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 80), st.integers(0, 90), st.integers(1, 20))
def test_counts_and_membership(seed, n, k, groups):
    r = rng(seed)
    pool = pool_of(r.normal(size=n), np.round(r.uniform(size=n), 1))
    method = DealRec(groups=groups, hard_prune=0.2)
    found = method.select(pool, k, rng=rng(seed))
    left = n - int(0.2 * n)
    assert len(found.index) == min(k, left)
    label = found.rows["cluster"]
    assert (label[found.index] >= 0).all() and (np.diff(found.gain) <= 0).all()
    sizes = np.bincount(label[label >= 0], minlength=groups)
    taken = np.bincount(label[found.index], minlength=groups)
    # Two groups with rows left over differ by at most one.
    over = taken[taken < sizes]
    assert len(over) == 0 or over.max() - over.min() <= 1
    refilled = DealRec(groups=groups, hard_prune=0.2, refill=True).select(pool, k, rng=rng(seed))
    assert len(refilled.index) == min(k, n)
    assert set(found.index.tolist()) <= set(refilled.index.tolist())


def test_scale_does_not_matter_and_weight_0_ignores_effort():
    r = rng(1)
    influence, effort = r.normal(size=100), r.uniform(size=100)
    base = DealRec().select(pool_of(influence, effort), 30, rng=rng()).index.tolist()
    moved = DealRec().select(pool_of(8 * influence - 4, 0.5 * effort + 2), 30, rng=rng())
    assert moved.index.tolist() == base
    one = DealRec(weight=0.0).select(pool_of(influence, effort), 30, rng=rng()).index.tolist()
    other = DealRec(weight=0.0).select(pool_of(influence, effort[::-1]), 30, rng=rng())
    assert other.index.tolist() == one


def test_constant_scores_are_one_group():
    found = DealRec(hard_prune=0.0).select(pool_of(np.ones(20), np.ones(20)), 5, rng=rng())
    assert found.facts["groups"] == 1 and len(found.index) == 5
    for wrong in ({"weight": -1.0}, {"groups": 0}, {"hard_prune": 1.0}):
        with pytest.raises(RecipeError, match="dealrec"):
            DealRec(**wrong)


def test_a_score_on_an_edge_belongs_to_the_lower_range():
    method = DealRec(groups=4)
    assert method.ranges(np.arange(9) / 8).tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3]
    assert method.ranges(np.array([5.0])).tolist() == [0]


def test_clipping_keeps_outliers_from_stretching_the_ranges():
    r = rng(3)
    influence = r.uniform(size=2000)
    influence[5], influence[6] = 1e6, -1e6
    pool = pool_of(influence, np.zeros(2000))
    plain = DealRec(hard_prune=0.0, groups=10).select(pool, 100, rng=rng())
    assert plain.facts["largest_group_share"] > 0.99
    clipped = DealRec(hard_prune=0.0, groups=10, clip=True).select(pool, 100, rng=rng())
    assert clipped.facts["largest_group_share"] < 0.2
    taken = np.bincount(clipped.rows["cluster"][clipped.index], minlength=10)
    assert taken.max() - taken.min() <= 1
    empty = DealRec(clip=True).select(pool_of(np.empty(0), np.empty(0)), 3, rng=rng())
    assert len(empty.index) == 0
