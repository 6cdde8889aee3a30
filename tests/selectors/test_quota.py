"""quota: exact shares of groups, whatever the method inside can give."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.errors import RecipeError
from tamis.selectors import Pool, Quota


def pool_of(groups, seed=0, **columns):
    n = len(groups)
    r = np.random.default_rng(seed)
    base = {"source": np.array(groups, dtype=object), "score": r.permutation(n).astype(float)}
    return Pool(n, base | columns)


def run(pool, k, **options):
    return Quota(**{"by": ("source",), **options}).select(pool, k, rng=np.random.default_rng(0))


def counts(pool, found):
    names, sizes = np.unique(pool.columns["source"][found.index].astype(str), return_counts=True)
    return dict(zip(names.tolist(), sizes.tolist(), strict=True))


MIX = ["a"] * 60 + ["b"] * 30 + ["c"] * 10


@pytest.mark.parametrize(
    "options, want",
    [
        ({}, {"a": 12, "b": 6, "c": 2}),
        ({"weights": "equal"}, {"a": 7, "b": 7, "c": 6}),
        ({"weights": {"a": 1.0, "c": 1.0}}, {"a": 10, "c": 10}),
        ({"weights": {"a": 3.0, "*": 1.0}}, {"a": 12, "b": 4, "c": 4}),
        ({"floors": {"c": 8}}, {"a": 8, "b": 4, "c": 8}),
        ({"floors": {"*": 5}}, {"a": 10, "b": 5, "c": 5}),
        ({"caps": {"a": 5}}, {"a": 5, "b": 11, "c": 4}),
        ({"keep_all": ("c",)}, {"a": 7, "b": 3, "c": 10}),
    ],
)
def test_shares(options, want):
    pool = pool_of(MIX)
    assert counts(pool, run(pool, 20, **options)) == want


def test_several_columns_at_once():
    pool = pool_of(MIX, language=np.array(["de", "en"] * 50, dtype=object))
    found = run(pool, 10, by=("source", "language"), weights={"a/de": 1.0, "b/en": 1.0})
    assert found.facts["kept.a/de"] == 5 and found.facts["kept.b/en"] == 5
    assert set(pool.columns["language"][found.index[:5]]) == {"de"}


def test_the_method_inside_picks():
    pool = pool_of(MIX)
    found = run(pool, 20, method="top", options={"column": "score"})
    for name, size in {"a": 12, "b": 6, "c": 2}.items():
        rows = np.flatnonzero(pool.columns["source"] == name)
        best = rows[np.argsort(-pool.columns["score"][rows], kind="stable")[:size]]
        assert found.index[np.isin(found.index, rows)].tolist() == best.tolist()


def test_what_one_group_cannot_give_the_others_do():
    # Group c holds ten copies of one row, so deita keeps one of them only.
    r = np.random.default_rng(1)
    x = r.normal(size=(100, 30)).astype(np.float32)
    x[90:] = x[90]
    pool = pool_of(MIX, vector=x)
    found = run(
        pool,
        20,
        method="deita",
        options={"scores": ["score"], "embedding": "vector", "tau": 0.95},
        weights="equal",
    )
    assert counts(pool, found) == {"a": 10, "b": 9, "c": 1}
    assert found.rows["reason"][90:].tolist().count("too_similar") == 9
    near = found.rows["nearest_kept"][90:]
    assert set(near.tolist()) <= {-1, *range(90, 100)}


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=40),
    st.integers(0, 50),
    st.integers(0, 4),
    st.integers(0, 20),
)
def test_exact_sum_within_bounds(groups, k, floor, cap):
    pool = pool_of([f"g{g}" for g in groups])
    sizes = np.unique(groups, return_counts=True)[1]
    low, high = np.minimum(np.minimum(floor, sizes), cap), np.minimum(sizes, cap)
    options = {"floors": {"*": floor}, "caps": {"*": cap}}
    if low.sum() > min(k, pool.n):
        with pytest.raises(RecipeError, match="floors"):
            run(pool, k, **options)
        return
    found = run(pool, k, **options)
    assert len(found.index) == min(k, high.sum())
    got = counts(pool, found)
    for name, a, b in zip(np.unique([f"g{g}" for g in groups]), low, high, strict=True):
        assert a <= got.get(name, 0) <= b


def test_names_and_options_are_checked():
    pool = pool_of(MIX)
    with pytest.raises(RecipeError, match=r"quota\.weights.*'d'"):
        run(pool, 5, weights={"d": 1.0})
    with pytest.raises(RecipeError, match=r"quota\.keep_all"):
        run(pool, 5, keep_all=("z",))
    with pytest.raises(RecipeError, match="no selection method 'tpo'"):
        Quota(by=("source",), method="tpo")
    with pytest.raises(RecipeError, match="top needs the option column"):
        Quota(by=("source",), method="top")
    with pytest.raises(RecipeError, match=r"quota\.by"):
        Quota(by=())
