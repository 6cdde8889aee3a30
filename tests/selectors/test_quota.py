"""quota: exact shares of groups, whatever the method inside can give."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.errors import RecipeError
from tamis.selectors import Pool, Quota, budget


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


def told(found):
    """What was asked of each group and what was spent on it."""
    names, asked, spent = (found.groups[n].tolist() for n in ("name", "asked", "spent"))
    return dict(zip(names, zip(asked, spent, strict=True), strict=True))


def paid(pool, found, costs, repeat=None):
    """What the picks of each group cost, counted one by one."""
    total = dict.fromkeys(pool.columns["source"].tolist(), 0)
    for row in found.index.tolist():
        name = pool.columns["source"][row]
        total[name] += int(costs[row]) * (repeat or {}).get(name, 1)
    return total


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
    assert told(found)["a/de"] == told(found)["b/en"] == (5, 5)
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
    with pytest.raises(RecipeError, match=r"quota\.repeat must be 1 or more"):
        Quota(by=("source",), repeat={"a": 0})
    with pytest.raises(RecipeError, match=r"quota\.repeat.*'z'"):
        run(pool, 5, repeat={"z": 2})
    with pytest.raises(RecipeError, match="outer quota"):
        Quota(by=("source",), method="quota", options={"by": ["source"], "repeat": {"a": 2}})


def test_asked_is_what_the_mixture_wants_whatever_the_groups_hold():
    found = run(pool_of(MIX), 60, weights={"a": 1.0, "c": 1.0})
    assert told(found) == {"a": (30, 50), "b": (0, 0), "c": (30, 10)}
    found = run(pool_of(MIX), 60, weights={"a": 1.0, "c": 1.0}, caps={"a": 20})
    assert told(found) == {"a": (20, 20), "b": (0, 30), "c": (40, 10)}


def test_shares_of_a_budget_in_tokens_are_shares_of_tokens():
    # Rows of code are ten times as long, so equal rows would be far from equal tokens.
    r = np.random.default_rng(4)
    pool = pool_of(["chat"] * 900 + ["code"] * 100)
    costs = np.concatenate([r.integers(20, 60, 900), r.integers(200, 600, 100)])
    for method, options in (("random", {}), ("top", {"column": "score"})):
        quota = Quota(
            by=("source",), method=method, options=options, weights={"chat": 60.0, "code": 40.0}
        )
        found = budget.fit(quota, pool, costs, 20_000, seed=0)
        spent = paid(pool, found, costs)
        assert told(found) == {"chat": (12_000, spent["chat"]), "code": (8_000, spent["code"])}
        assert abs(spent["chat"] - 12_000) < 60 and abs(spent["code"] - 8_000) < 600
        assert found.facts["spent"] == sum(spent.values()) <= 20_000
        assert found.facts["shortfall"] < 600 and found.facts["solves"] <= 6


def test_floors_caps_and_whole_groups_in_tokens():
    pool = pool_of(MIX)
    costs = np.full(100, 10)
    quota = Quota(by=("source",), keep_all=("c",), caps={"a": 100})
    assert paid(pool, budget.fit(quota, pool, costs, 400, seed=0), costs) == {
        "a": 100,
        "b": 200,
        "c": 100,
    }
    quota = Quota(by=("source",), floors={"b": 300})
    assert paid(pool, budget.fit(quota, pool, costs, 400, seed=0), costs)["b"] == 300


def test_rows_that_are_shown_twice_cost_twice():
    pool = pool_of(MIX)
    found = run(pool, 20, weights="equal", repeat={"c": 2})
    assert counts(pool, found) == {"a": 7, "b": 7, "c": 3}
    assert told(found)["c"] == (6, 6)
    shown = found.rows["repeat"]
    assert set(shown[90:]) == {2} and set(shown[:90]) == {1}
    every = run(pool, 1000, repeat={"c": 3, "*": 2})
    assert len(every.index) == 100 and sum(t[1] for t in told(every).values()) == 210


bounds = st.dictionaries(st.sampled_from(["g0", "g1", "*"]), st.integers(0, 400), max_size=2)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 60)), min_size=1, max_size=40),
    st.integers(0, 1500),
    bounds,
    st.dictionaries(st.sampled_from(["g0", "*"]), st.integers(1, 3), max_size=2),
)
def test_tokens_are_never_exceeded_and_spent_to_the_last_row(rows, limit, caps, repeat):
    groups, costs = [f"g{g}" for g, _ in rows], np.array([c for _, c in rows])
    pool = pool_of([*groups, "g0", "g1"])
    costs = np.append(costs, [5, 5])
    quota = Quota(by=("source",), caps=caps, repeat=repeat)
    found = budget.fit(quota, pool, costs, limit, seed=1)
    times = {name: repeat.get(name, repeat.get("*", 1)) for name in set(groups) | {"g0", "g1"}}
    spent = paid(pool, found, costs, times)
    assert {name: pair[1] for name, pair in told(found).items()} == spent
    assert found.facts["spent"] == sum(spent.values()) <= limit
    for name, value in spent.items():
        assert value <= caps.get(name, caps.get("*", value))
    shown = costs * [times[name] for name in pool.columns["source"]]
    if not caps and shown.sum() > limit:
        assert found.facts["shortfall"] < shown.max()
    if not caps and shown.sum() <= limit:
        assert len(found.index) == pool.n
