"""k_center and facility_location against brute force and stored cases."""

import itertools
import math

import numpy as np
import pytest

from tamis.errors import DataError, RecipeError
from tamis.numerics.neighbours import most_similar
from tamis.selectors import FacilityLocation, KCenter, Pool
from tamis.selectors import facility_location as module


def rng(seed=0):
    return np.random.default_rng(seed)


def pool_of(x):
    return Pool(len(x), {"embed.vector": np.asarray(x, dtype=np.float32)})


def gonzalez(x, k, first):
    x = x.astype(np.float64)
    picked = [first]
    while len(picked) < k:
        d = np.min([((x - x[p]) ** 2).sum(axis=1) for p in picked], axis=0)
        d[picked] = -1
        picked.append(int(d.argmax()))
    return picked


def test_stored_k_center(vectors):
    (path,) = vectors("kmeans").glob("static*.npz")
    z = np.load(path)
    method = KCenter(start=int(z["kcenter_start"]), normalize=False)
    found = method.select(pool_of(z["embeddings"]), int(z["kcenter_k"]), rng=rng())
    assert found.index.tolist() == z["kcenter_selected"].tolist()
    assert found.facts["radius"] == pytest.approx(float(z["kcenter_radius"]), abs=1e-6)


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e3])
def test_k_center_equals_the_definition(scale):
    x = (rng(1).normal(size=(120, 9)) * scale + 5 * scale).astype(np.float32)
    x[60:70] = x[50:60]
    found = KCenter(start=3, normalize=False).select(pool_of(x), 120, rng=rng())
    assert found.index.tolist() == gonzalez(x, 120, 3)
    # What is left of a pair of copies comes last, lowest row first, at distance 0.
    assert (np.diff(found.gain[1:]) <= 1e-12 * scale).all()


def test_k_center_radius_is_within_twice_the_best():
    for seed in range(10):
        x = rng(seed).normal(size=(8, 2)).astype(np.float32)
        gap = np.linalg.norm(x[:, None].astype(float) - x[None], axis=2)
        best = min(gap[:, list(s)].min(axis=1).max() for s in itertools.combinations(range(8), 3))
        found = KCenter(normalize=False).select(pool_of(x), 3, rng=rng())
        assert found.facts["radius"] <= 2 * best + 1e-9
        near = found.rows["nearest_kept"]
        assert np.allclose(gap[np.arange(8), near], gap[:, found.index].min(axis=1))


def test_k_center_starts():
    x = np.array([[0.0, 0], [4, 0], [1, 0.1], [0, 4]])
    assert KCenter(normalize=False).select(pool_of(x), 1, rng=rng()).index.tolist() == [2]
    firsts = {
        int(KCenter(start="random").select(pool_of(x), 1, rng=rng(s)).index[0]) for s in range(40)
    }
    assert firsts == {0, 1, 2, 3}
    with pytest.raises(DataError, match="4 rows"):
        KCenter(start=4).select(pool_of(x), 1, rng=rng())


def similarity(x, neighbours=None):
    unit = x.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    s = np.maximum(unit @ unit.T, 0)
    if neighbours:
        keep = np.argsort(-np.round(unit @ unit.T, 12), axis=1, kind="stable")[:, :neighbours]
        mask = np.zeros_like(s, dtype=bool)
        np.put_along_axis(mask, keep, True, axis=1)
        s = np.where(mask, s, 0)
    return s


def plain_greedy(s, k):
    picked, best = [], np.zeros(len(s))
    for _ in range(k):
        gains = np.maximum(s - best[:, None], 0).sum(axis=0)
        gains[picked] = -1
        picked.append(int(np.argmax(np.round(gains, 6))))
        best = np.maximum(best, s[:, picked[-1]])
    return picked, best.sum()


@pytest.mark.parametrize("neighbours", [None, 12])
@pytest.mark.parametrize("stored", [True, False])
def test_facility_location_equals_plain_greedy(neighbours, stored, monkeypatch):
    if not stored:
        monkeypatch.setattr(module, "_STORED", 0)
    x = rng(2).normal(size=(150, 6)).astype(np.float32)
    want, objective = plain_greedy(similarity(x, neighbours), 25)
    found = FacilityLocation(neighbours=neighbours).select(pool_of(x), 25, rng=rng())
    assert found.index.tolist() == want
    assert found.facts["objective"] == pytest.approx(objective, rel=1e-6)
    assert found.curves["objective"][-1] == pytest.approx(objective, rel=1e-6)


def test_facility_location_guarantee_by_enumeration():
    for seed in range(10):
        x = rng(seed).normal(size=(8, 3)).astype(np.float32)
        s = similarity(x)
        best = max(s[:, list(c)].max(axis=1).sum() for c in itertools.combinations(range(8), 3))
        for options in ({}, {"partitions": 2}, {"greedy": "stochastic", "epsilon": 0.01}):
            found = FacilityLocation(**options).select(pool_of(x), 3, rng=rng())
            value = s[:, found.index].max(axis=1).sum()
            assert value == pytest.approx(found.facts["objective"], rel=1e-6)
            assert value >= (1 - 1 / math.e) * best - 1e-9


def test_blocks_do_not_change_facility_location(monkeypatch):
    x = np.repeat(rng(3).normal(size=(60, 4)), 2, axis=0).astype(np.float32)
    for options in ({}, {"neighbours": 9}):
        want = FacilityLocation(**options).select(pool_of(x), 40, rng=rng()).index.tolist()
        with monkeypatch.context() as patch:
            patch.setattr(module, "_STORED", 0)
            patch.setattr(module, "CELLS", 500)
            patch.setattr("tamis.numerics.blocked.CELLS", 500)
            got = FacilityLocation(**options).select(pool_of(x), 40, rng=rng()).index.tolist()
        assert got == want


def test_partitions_and_samples_lose_little():
    r = rng(4)
    x = r.normal(size=(12, 10))[r.integers(12, size=600)] + 0.4 * r.normal(size=(600, 10))
    best = FacilityLocation().select(pool_of(x), 30, rng=rng()).facts["objective"]
    for options in ({"partitions": 4}, {"greedy": "stochastic"}):
        found = FacilityLocation(**options).select(pool_of(x), 30, rng=rng())
        assert 0.95 * best < found.facts["objective"] <= best * (1 + 1e-9)


def test_prefix_and_options():
    assert FacilityLocation().prefix and not FacilityLocation(partitions=2).prefix
    assert not FacilityLocation(greedy="stochastic").prefix
    for wrong in ({"neighbours": 0}, {"epsilon": 1.0}, {"partitions": 0}):
        with pytest.raises(RecipeError, match="facility_location"):
            FacilityLocation(**wrong)


def test_partitions_never_lose_to_one_of_their_parts():
    """GreeDi returns the best of the merged picks and those of each part."""
    for seed in range(30):
        x = rng(seed).normal(size=(24, 2)).astype(np.float32)
        s = similarity(x)
        for options in ({}, {"neighbours": 5}):
            part = s if not options else similarity(x, 5)
            found = FacilityLocation(partitions=3, **options).select(pool_of(x), 3, rng=rng(seed))
            assert found.gain.sum() == pytest.approx(part[:, found.index].max(axis=1).sum())
            cuts = np.array_split(rng(seed).permutation(24), 3)
            for cut in (np.sort(rows) for rows in cuts):
                alone = FacilityLocation(**options).select(pool_of(x[cut]), 3, rng=rng())
                reached = part[:, cut[alone.index]].max(axis=1).sum()
                assert found.facts["objective"] >= reached * (1 - 1e-5)


def test_neighbours_are_the_nearest_and_of_copies_the_lowest():
    x = np.repeat(rng(5).normal(size=(40, 6)), 3, axis=0).astype(np.float32)
    x[60:] *= 3
    x[7] = 0
    for m in (1, 2, 5, 60, 120):
        index, value = most_similar(x, m)
        unit = x.astype(np.float64)
        unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-30)
        cosine = np.round(unit @ unit.T, 12)
        want = np.argsort(-cosine, axis=1, kind="stable")[:, :m]
        assert index.tolist() == want.tolist()
        found = np.take_along_axis(np.maximum(cosine, 0), want, axis=1)
        np.testing.assert_allclose(value, found, atol=1e-11)
