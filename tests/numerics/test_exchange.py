"""exchange: exact values, scores and bounds of the stored cases; the authors' search to the row."""

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.numerics import exchange
from tamis.numerics.exchange_start import start
from tamis.numerics.transport import Plan


def rng(seed=0):
    return np.random.default_rng(seed)


def problem_of(z):
    x, y = (z[f"emb_{n}"].astype(np.float64) for n in ("train", "target"))
    distance = np.linalg.norm(x[:, None] - y[None], axis=2)
    norm = z["grad_norm"].astype(np.float64)
    return exchange.Problem(distance / distance.max(), float(z["lam"]) * norm / norm.max())


def random_problem(seed, n, m, d=4):
    r = rng(seed)
    x, y = r.normal(size=(n, d)), r.normal(size=(m, d)) + 0.5
    distance = np.linalg.norm(x[:, None] - y[None], axis=2)
    return exchange.Problem(distance / distance.max(), 0.2 * r.uniform(size=n))


def cases(vectors):
    files = sorted(vectors("goracs").glob("case_*.npz"))
    assert files
    return [(path.name, np.load(path)) for path in files]


def test_values_of_stored_groups(vectors):
    for name, z in cases(vectors):
        problem = problem_of(z)
        for at, rows in enumerate(z["subsets"]):
            rows = rows.astype(np.int64)
            plan = problem.solve(rows)
            assert plan.value == pytest.approx(z["poo"][at], abs=1e-6), name
            part = problem.bonus[rows].mean()
            assert plan.value + part == pytest.approx(z["ot_part"][at], abs=1e-6)
            assert problem.semi_relaxed(rows) == pytest.approx(z["semi_relaxed"][at], abs=1e-6)
            assert problem.semi_relaxed(rows) <= plan.value + 1e-9
            scale = float(z["cost_max"] - z["cost_min"])
            minmax = (plan.value - float(z["cost_min"])) / scale
            assert minmax == pytest.approx(z["poo_minmax_official"][at], abs=1e-4)
            cost = problem.costs(rows)
            assert (plan.u[:, None] + plan.w <= cost + 1e-9).all()
            assert plan.u.mean() + plan.w.mean() == pytest.approx(plan.value, abs=1e-9)


def test_greedy_start_of_stored_cases(vectors):
    told = json.loads((vectors("goracs") / "summary.json").read_text())["cases"]
    for (name, z), case in zip(cases(vectors), told, strict=True):
        problem = problem_of(z)
        rows = start(problem, int(z["k"]))
        assert len(set(rows.tolist())) == int(z["k"])
        if case["greedy_same"]:
            assert sorted(rows.tolist()) == sorted(z["greedy_official"].tolist()), name
        else:
            assert problem.solve(rows).value <= case["poo_greedy"]


def test_scores_and_bounds_with_stored_duals(vectors):
    path = vectors("goracs") / "mi_scores.npz"
    if not path.is_file():
        pytest.skip("no mi_scores among these vectors")
    z = np.load(path)
    problem, rows = problem_of(z), z["S"].astype(np.int64)
    u = z["dual_x"].astype(np.float64)
    w = (problem.costs(rows) - u[:, None]).min(axis=0)
    plan = Plan(float(u.mean() + w.mean()), u, w)
    assert plan.value == pytest.approx(float(z["poo_S"]), abs=1e-8)
    np.testing.assert_allclose(
        exchange.without_each(problem, rows, plan), z["f_matrix"][rows], atol=1e-8
    )
    np.testing.assert_allclose(exchange.scores(problem, rows, plan), z["mi"], atol=1e-8)
    np.testing.assert_allclose(
        exchange.scores(problem, rows, plan, official=True), z["mi_official"], atol=1e-8
    )
    outer = z["outer"].astype(np.int64)
    bounds = exchange.lower_bounds(problem, rows, plan, np.arange(len(rows)), outer)
    np.testing.assert_allclose(bounds, z["pair_lower_bound"], atol=1e-8)
    assert (bounds <= z["exchange_poo"] + 1e-9).all()
    last = np.array(z["exchange_poo"].shape) - 1
    for i, o in (last * share // 2 for share in (0, 1, 2)):
        changed = np.append(np.delete(rows, i), outer[o])
        assert problem.solve(changed).value == pytest.approx(z["exchange_poo"][i, o], abs=1e-8)


def test_score_is_the_maximum_over_a_grid():
    problem = exchange.Problem(rng(3).uniform(size=(20, 13)), rng(4).uniform(size=20))
    rows = np.array([2, 5, 11])
    plan = problem.solve(rows)
    score = exchange.scores(problem, rows, plan)
    for i in (0, 5, 17):
        others = rows[rows != i]
        f = (problem.costs(others) - plan.u[rows != i][:, None]).min(axis=0)
        d = problem.costs(i) - f
        grid = np.linspace(d.min(), d.max(), 20_001)
        values = grid / 3 + np.minimum(d[:, None] - grid, 0).mean(axis=0)
        assert score[i] == pytest.approx(values.max(), abs=1e-4)


def test_the_authors_search_of_stored_cases(vectors):
    for name, z in cases(vectors):
        problem = problem_of(z)
        cost = problem.costs(slice(None)).astype(np.float32)
        scaled = (cost - cost.min()) / (cost.max() - cost.min())
        theirs = exchange.Problem(scaled, np.zeros(len(scaled)))
        begin = z["greedy_official"].astype(np.int64)
        options = {"exchanges": int(z["max_iters"]), "cut": int(z["cut_num"])}
        found = exchange.search(theirs, begin, **options)
        assert found.rows.tolist() == z["final_official"].tolist(), name
        ours = exchange.refine(problem, begin, tries=20, **options)
        assert ours.plan.value <= z["poo"][1] + 1e-6, name


def test_never_worse_than_the_authors_on_problems_of_that_kind(vectors):
    for seed in range(2):
        for name, z in cases(vectors):
            n, m = len(z["emb_train"]), len(z["emb_target"])
            problem = random_problem(seed, n, m, z["emb_train"].shape[1])
            options = {"exchanges": int(z["max_iters"]), "cut": int(z["cut_num"])}
            begin = start(problem, int(z["k"]))
            theirs = exchange.search(problem, begin, **options).plan.value
            ours = exchange.refine(problem, begin, tries=20, **options)
            assert ours.plan.value <= theirs + 1e-6, (name, seed)
            assert (np.diff(ours.trace) < 0).all()


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 40), st.integers(1, 20))
def test_lowest_equals_sorting_all_scores(seed, k, m, count):
    problem = random_problem(seed, 150, m)
    w = rng(seed).normal(size=m) * 0.1
    outside = np.setdiff1d(np.arange(150), rng(seed).choice(150, k, replace=False))
    gap = problem.costs(outside) - w
    rank = math.ceil(m / k)
    level = np.sort(gap, axis=1)[:, rank - 1]
    score = level / k + np.minimum(gap - level[:, None], 0).mean(axis=1)
    order = outside[np.argsort(np.round(score, 12), kind="stable")]
    assert exchange.lowest(problem, w, k, outside, count).tolist() == order[:count].tolist()


def test_small_problems_take_the_best_of_several_descents():
    pytest.importorskip("ot")
    values = []
    for seed in range(4):
        problem = random_problem(seed, 60, 24)
        rows = start(problem, 6)
        plan = problem.solve(rows)
        each = [
            exchange._descend(problem, rows, plan, shares, 30, 5, 20).plan.value
            for shares in exchange._BEGIN_SMALL
        ]
        found = exchange.refine(problem, rows, exchanges=30, cut=5, tries=4)
        assert found.plan.value == min(each)
        values.append(len({round(value, 12) for value in each}))
    assert max(values) > 1  # the descents do differ


def test_blocks_and_precision_of_distances_do_not_matter(monkeypatch):
    problem = random_problem(1, 80, 30)
    rows = start(problem, 6)
    plan = problem.solve(rows)
    score = exchange.scores(problem, rows, plan)
    found = exchange.refine(problem, rows, exchanges=20, cut=10, tries=20)
    monkeypatch.setattr(exchange, "_CELLS", 7 * 30)
    np.testing.assert_allclose(exchange.scores(problem, rows, plan), score, atol=1e-14)
    again = exchange.refine(problem, start(problem, 6), exchanges=20, cut=10, tries=20)
    assert again.rows.tolist() == found.rows.tolist()
    single = exchange.Problem(problem.distance.astype(np.float32), problem.bonus)
    close = exchange.refine(single, start(single, 6), exchanges=20, cut=10, tries=20)
    assert close.rows.tolist() == found.rows.tolist()
    assert close.plan.value == pytest.approx(found.plan.value, abs=1e-6)


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.integers(2, 5), st.integers(2, 12))
def test_bounds_never_exceed_the_exact_cost(seed, k, m):
    problem = random_problem(seed, 12, m)
    rows = rng(seed).choice(12, k, replace=False)
    plan = problem.solve(rows)
    outside = np.setdiff1d(np.arange(12), rows)
    bound = exchange.lower_bounds(problem, rows, plan, np.arange(k), outside)
    for i, o in itertools.product(range(k), range(len(outside))):
        changed = exchange.exchanged(rows, ((i, int(outside[o])),))
        assert bound[i, o] <= problem.solve(changed).value + 1e-9


def test_smoothed_duals_are_near_the_exact_ones_and_survive_far_targets():
    problem = random_problem(2, 60, 40)
    rows = start(problem, 8)
    u, w = exchange.smoothed(problem, rows, 0.01, None)
    exact = problem.solve(rows)
    assert u.mean() + w.mean() == pytest.approx(exact.value, abs=0.02)
    far = problem.distance.copy()
    far[:, 3] += 1e6  # a target far from every row
    far[5] += 1e6
    wild = exchange.Problem(far, problem.bonus)
    for share in (1e-6, 0.2):
        assert all(np.isfinite(dual).all() for dual in exchange.smoothed(wild, rows, share, None))
    assert np.isfinite(exchange.refine(wild, rows, exchanges=3, cut=5, tries=5).plan.value)


def test_copies_of_one_point():
    problem = exchange.Problem(np.zeros((9, 4)), np.zeros(9))
    rows = start(problem, 3)
    assert len(set(rows.tolist())) == 3
    assert exchange.refine(problem, rows, exchanges=5, cut=3, tries=5).plan.value == 0


def test_one_row_scores_as_its_mean_cost():
    problem = random_problem(3, 10, 6)
    rows = start(problem, 1)
    assert rows.tolist() == [int(problem.costs(slice(None)).mean(axis=1).argmin())]
    plan = problem.solve(rows)
    assert np.isfinite(exchange.leaving(problem, rows, plan)).all()
