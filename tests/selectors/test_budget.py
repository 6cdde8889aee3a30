"""Budgets in rows and tokens: never exceeded, prefixes as long as they fit, six solves at most."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.errors import DataError
from tamis.selectors import Pool, Selection, budget, build


@dataclass(frozen=True)
class Fickle:
    """Not a prefix method: every k gives another set."""

    name: ClassVar[str] = "fickle"
    prefix: ClassVar[bool] = False
    version: ClassVar[int] = 1

    def needs(self):
        return frozenset()

    def select(self, pool, k, *, rng):
        index = np.sort(np.random.default_rng(k).permutation(pool.n)[:k]).astype(np.int64)
        reason = np.full(pool.n, "not_drawn", dtype=object)
        reason[index] = "selected"
        return Selection(index, np.ones(k), {}, {"step": np.arange(k)}, {"reason": reason})


def pool_of(n):
    return Pool(n, {"score": np.random.default_rng(5).permutation(n).astype(float)})


def test_rows():
    found = budget.fit(build("random"), pool_of(50), None, 12, seed=1)
    assert len(found.index) == 12
    assert found.facts == {"limit": 12, "spent": 12, "shortfall": 0, "solves": 1}
    assert budget.fit(build("random"), pool_of(5), None, 12, seed=1).facts["shortfall"] == 7


costs_and_limit = st.tuples(
    st.lists(st.integers(0, 30), max_size=60), st.integers(0, 400), st.integers(0, 99)
)


@settings(max_examples=200, deadline=None)
@given(costs_and_limit)
def test_longest_prefix_that_fits(case):
    costs, limit, seed = case
    costs = np.asarray(costs, dtype=np.int64)
    n = len(costs)
    full = build("random").select(Pool(n, {}), n, rng=np.random.default_rng(seed)).index
    found = budget.fit(build("random"), Pool(n, {}), costs, limit, seed=seed)
    size = int((np.cumsum(costs[full]) <= limit).sum())
    assert found.index.tolist() == full[:size].tolist()
    assert found.facts["solves"] <= 6 and found.facts["spent"] == costs[found.index].sum()
    assert (found.rows["reason"] == "selected").sum() == size


def test_prefix_of_very_uneven_costs():
    # The best rows cost nothing, so the first guess is far too small.
    costs = np.ones(5000, dtype=np.int64) * 1000
    pool = pool_of(5000)
    costs[np.argsort(-pool.columns["score"])[:4000]] = 1
    found = budget.fit(build("top", {"column": "score"}), pool, costs, 4000, seed=0)
    assert len(found.index) == 4000 and found.facts["solves"] <= 6


@settings(max_examples=200, deadline=None)
@given(costs_and_limit)
def test_other_methods_never_exceed(case):
    costs, limit, seed = case
    costs = np.asarray(costs, dtype=np.int64)
    found = budget.fit(Fickle(), Pool(len(costs), {}), costs, limit, seed=seed)
    assert costs[found.index].sum() <= limit and found.facts["solves"] <= 7
    assert len(found.gain) == len(found.index) == len(found.curves["step"])
    kept = np.flatnonzero(found.rows["reason"] == "selected")
    assert kept.tolist() == sorted(found.index.tolist())
    if costs.sum() <= limit:
        assert len(found.index) == len(costs)


def test_other_methods_come_close():
    r = np.random.default_rng(0)
    costs = r.integers(20, 400, size=3000)
    found = budget.fit(Fickle(), Pool(3000, {}), costs, 100_000, seed=0)
    assert 0 <= found.facts["shortfall"] < 2000
    mixed = pool_of(3000)
    mixed.columns["source"] = np.array(list("abc"), dtype=object)[r.integers(3, size=3000)]
    found = budget.fit(build("quota", {"by": ["source"]}), mixed, costs, 100_000, seed=0)
    assert 0 <= found.facts["shortfall"] < 2000 and found.facts["solves"] <= 6


def test_every_row_too_dear():
    costs = np.full(10, 50, dtype=np.int64)
    for method in (build("random"), Fickle()):
        found = budget.fit(method, Pool(10, {}), costs, 49, seed=0)
        assert len(found.index) == 0 and found.facts["shortfall"] == 49


def test_refuses_nonsense():
    with pytest.raises(DataError, match="0 or more"):
        budget.fit(build("random"), pool_of(3), None, -1, seed=0)
    for costs in (np.array([1, 2]), np.array([1.5, 2, 3]), np.array([1, -2, 3])):
        with pytest.raises(DataError, match="costs"):
            budget.fit(build("random"), pool_of(3), costs, 1, seed=0)
