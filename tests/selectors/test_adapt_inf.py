"""adapt_inf: the official rules on the stored cases, the corrected ones by their properties."""

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.errors import DataError, RecipeError
from tamis.numerics import strata
from tamis.selectors import AdaptInf, Pool
from tamis.selectors.semdedup import earlier_maximum


def rng(seed=0):
    return np.random.default_rng(seed)


def load(vectors, name):
    folder = vectors("adapt_inf")
    return np.load(folder / f"{name}.npz") if name != "cluster_budget" else None


def told(vectors, name):
    return json.loads((vectors("adapt_inf") / f"{name}.json").read_text())


def test_stored_budgets(vectors):
    for case in told(vectors, "cluster_budget"):
        sizes = np.array(case["sizes"])
        if case.get("score_weighted"):
            parts = np.split(np.array(case["scores"], dtype=float), np.cumsum(sizes)[:-1])
            spread = np.array([np.nan_to_num(part.std()) for part in parts])
            got = strata.official_spread_budget(sizes, spread, case["total"])
            assert got.tolist() == case["budgets"]
        elif case["error"]:
            with pytest.raises(ZeroDivisionError):
                strata.official_budget(sizes, case["total"])
        else:
            got = strata.official_budget(sizes, case["total"])
            assert got.tolist() == case["budgets"] and got.sum() == case["sum"]


def test_surplus_of_small_clusters_moves_to_larger_ones():
    got = strata.official_spread_budget(np.array([2, 50, 40]), np.array([8.0, 1.0, 1.0]), 20)
    # 16, 2, 2: fourteen too many for the first, seven more for each of the others.
    assert got.tolist() == [2, 9, 9]


def test_stored_experts(vectors):
    z = load(vectors, "expert_scores")
    for case in told(vectors, "expert_choice"):
        names = list(case["entropies"])
        values = [z[f"t{case['case']}_{name}"] for name in names]
        for name, value in zip(names, values, strict=True):
            got, want = strata.entropy(value, official=True), case["entropies"][name]
            assert math.isnan(got) if want is None else got == pytest.approx(want, rel=1e-9)
            assert value.std() == pytest.approx(case["std"][name], rel=1e-12, abs=1e-12)
        method = AdaptInf(scores=tuple(names), expert="official")
        assert names[method.choose(values)] == case["chosen"]


def test_stored_coverage_draws(vectors):
    z = load(vectors, "ccs")
    for case in told(vectors, "ccs"):
        at = f"c{case['case']}_"
        score = z[f"{at}scores"]
        assert len(score) == case["n"] and case["error"] is None
        edges = strata.official_edges(score)
        np.testing.assert_allclose(edges, z[f"{at}edges"], atol=1e-12)
        assert (edges[0], edges[-1]) == pytest.approx((case["high"], case["low"]), abs=1e-9)
        held = [int(((score > a) & (score <= b)).sum()) for b, a in itertools.pairwise(edges)]
        assert held == z[f"{at}bin_candidates"].tolist()
        for rows in (strata.official_draw(score, case["budget"], rng()), z[f"{at}selected"]):
            assert len(set(rows.tolist())) == case["n_selected"]
            counts = [
                int(((score[rows] > edges[b + 1]) & (score[rows] <= edges[b])).sum())
                for b in range(50)
            ]
            assert counts == z[f"{at}bin_selected"].tolist()


def test_stored_pruning(vectors):
    files = sorted(vectors("adapt_inf").glob("prune_*.npz"))
    assert files
    for path in files:
        z = np.load(path)
        labels = z["labels"].astype(np.int64)
        unit = z["X"] / np.linalg.norm(z["X"], axis=1, keepdims=True)
        value, _ = earlier_maximum(unit.astype(np.float32), labels, np.arange(len(labels)))
        order = np.argsort(labels, kind="stable")
        np.testing.assert_allclose(
            np.maximum(value, 0)[order], z["max_sim_by_cluster_order"], atol=1e-6
        )
        assert np.bincount(labels).tolist() == z["cluster_sizes"].tolist()
        pool = Pool(len(labels), {"v": z["X"], "c": labels})
        method = AdaptInf(vectors="v", labels="c", budget="official")
        shares = strata.official_budget(z["cluster_sizes"], int(z["keep"]))
        assert shares.tolist() == z["cluster_budget"].tolist()
        found = method.prune(pool, len(z["kept"]), rng=rng())
        assert set(found.index.tolist()) == set(z["kept"].tolist())


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 120), st.integers(0, 130), st.booleans())
def test_exact_draw(seed, n, budget, ties):
    r = rng(seed)
    score = r.integers(5, size=n).astype(float) if ties else r.normal(size=n)
    rows = strata.draw(score, budget, rng(seed))
    assert len(rows) == min(budget, n) == len(set(rows.tolist()))
    low, high = np.sort(score)[[int(0.05 * (n - 1)), math.ceil(0.95 * (n - 1))]]
    inside = (score >= low) & (score <= high)
    if budget <= inside.sum():
        assert inside[rows].all()
        bins = max(1, min(50, len(np.unique(score[inside]))))
        edges = np.linspace(low, high, bins + 1)
        place = np.clip(np.searchsorted(edges, score, side="left") - 1, 0, bins - 1)
        sizes = np.bincount(place[inside], minlength=bins)
        taken = np.bincount(place[rows], minlength=bins)
        # Bins with rows left over differ by at most one.
        over = taken[taken < sizes]
        assert len(over) == 0 or over.max() - over.min() <= 1
    else:
        # The tails enter only when the range is used up, nearest first.
        assert inside.sum() == inside[rows].sum()
        away = np.maximum(np.maximum(low - score, score - high), 0)
        left = np.setdiff1d(np.arange(n), rows)
        assert len(left) == 0 or away[rows].max() <= away[left].min() + 1e-12


def test_exact_draw_is_even_over_the_range():
    score = np.concatenate([np.linspace(0, 1, 50), rng().uniform(0.4, 0.6, size=2000)])
    rows = strata.draw(score, 100, rng(1), bins=10, trim=0.0)
    counts = np.histogram(score[rows], bins=10, range=(0, 1))[0]
    assert counts.min() >= 4 and counts.max() <= 40
    plain = np.histogram(score[rng(1).choice(len(score), 100)], bins=10, range=(0, 1))[0]
    assert plain.min() == 0


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.01, 100), st.floats(-50, 50))
def test_fixed_expert_ignores_units(seed, scale, shift):
    r = rng(seed)
    values = [r.normal(size=80), r.gamma(1.0, size=80), r.integers(2, size=80).astype(float)]
    method = AdaptInf(scores=("a", "b", "c"))
    moved = [scale * value + shift for value in values]
    bits = [strata.entropy(v) for v in values]
    ordered = sorted(bits)
    if ordered[-1] - ordered[-2] > 0.2:  # a value on a bin's edge may change sides
        assert method.choose(moved) == method.choose(values)


def test_constant_scores_never_decide():
    method = AdaptInf(scores=("a", "b"))
    spread = rng().normal(size=40)
    assert method.choose([np.full(40, 3.7), spread]) == 1
    assert method.choose([np.full(40, 3.7), np.zeros(40)]) is None
    assert AdaptInf(scores=("a", "b"), expert="official").choose([np.full(40, 3.7), spread]) == 0


def test_selection_by_cluster():
    r = rng(2)
    label = np.repeat([0, 1, 2], [10, 100, 190])
    pool = Pool(300, {"c": label, "a": r.normal(size=300), "b": np.ones(300)})
    found = AdaptInf(labels="c", scores=("a", "b")).select(pool, 90, rng=rng())
    assert np.bincount(label[found.index]).tolist() == [10, 40, 40]
    assert found.facts["expert.1"] == "a"
    assert found.gain.tolist() == pool.columns["a"][found.index].tolist()
    spread = AdaptInf(labels="c", scores=("a",), budget="spread").select(pool, 90, rng=rng())
    assert len(spread.index) == 90
    official = AdaptInf(labels="c", scores=("a",), budget="official", draw="official")
    assert len(official.select(pool, 90, rng=rng()).index) <= 90


def test_zero_vectors_belong_to_no_cluster():
    x = rng().normal(size=(60, 4))
    x[::6] = 0
    pool = Pool(60, {"v": x, "a": rng().normal(size=60)})
    found = AdaptInf(vectors="v", scores=("a",), clusters=3).select(pool, 60, rng=rng())
    assert len(found.index) == 50 and (found.rows["reason"][::6] == "no_vector").all()


def test_pruning_drops_the_later_copy():
    x = rng(3).normal(size=(20, 5))
    x[15] = x[2]
    pool = Pool(20, {"v": x, "c": np.zeros(20, dtype=int)})
    found = AdaptInf(vectors="v", labels="c").prune(pool, 19, rng=rng())
    assert sorted(set(range(20)) - set(found.index.tolist())) == [15]
    assert found.rows["nearest_kept"][15] == 2


def test_refuses_nonsense():
    for wrong in ({"scores": ()}, {"clusters": 0}, {"bins": 0}, {"trim": 0.5}):
        with pytest.raises(RecipeError, match="adapt_inf"):
            AdaptInf(**wrong)


def test_the_instruction_takes_the_place_of_the_image():
    r = rng(4)
    ifd = np.concatenate([np.exp(-r.uniform(0, 3, size=200)), np.full(200, 0.5)])
    columns = {"c": np.repeat([0, 1], 200), "a": np.repeat([1.0, 2.0], 200), "i": ifd}
    columns["a"] = columns["a"] + np.concatenate([np.zeros(200), r.uniform(size=200)])
    method = AdaptInf(labels="c", scores=("a",), ifd="i")
    assert method.needs() == {"a", "i", "c"}
    found = method.select(Pool(400, columns), 40, rng=rng())
    assert (found.facts["expert.0"], found.facts["expert.1"]) == ("1/i", "a")
    first = found.index < 200
    np.testing.assert_allclose(found.gain[first], 1 / ifd[found.index[first]])
    with pytest.raises(DataError, match="not above 0 in 1 of 400"):
        bad = dict(columns, i=np.concatenate([[0.0], ifd[1:]]))
        method.select(Pool(400, bad), 40, rng=rng())


def test_pruning_by_the_recipe_is_pruning():
    x = rng(5).normal(size=(50, 4))
    pool = Pool(50, {"v": x, "c": np.arange(50) % 3})
    method = AdaptInf(vectors="v", labels="c", step="prune")
    assert method.needs() == {"v", "c"}
    found = method.select(pool, 20, rng=rng())
    assert found.index.tolist() == method.prune(pool, 20, rng=rng()).index.tolist()
    assert len(found.index) == 20 and set(range(3)) <= set(found.index.tolist())


def test_the_official_budget_says_where_it_cannot_divide():
    pool = Pool(11, {"c": np.repeat([0, 1, 2], [1, 5, 5]), "a": np.arange(11.0)})
    method = AdaptInf(labels="c", scores=("a",), budget="official")
    with pytest.raises(ZeroDivisionError):
        strata.official_budget(np.array([1, 5, 5]), 16)
    failing = [k for k in range(1, 12) if not _works(method, pool, k)]
    assert failing, "the rule never divides by zero here"


def _works(method, pool, k):
    try:
        method.select(pool, k, rng=rng())
    except DataError as error:
        assert "divides by zero" in str(error)
        return False
    return True
