"""Rounds of k-means-quality: stored weights, and what must hold from round to round."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tamis.errors import DataError, RecipeError
from tamis.numerics import round_weights
from tamis.selectors import KMeans, Pool
from tamis.selectors.kmeans_rounds import KMeansRounds


def rng(seed=0):
    return np.random.default_rng(seed)


def test_stored_weights(vectors):
    files = sorted(vectors("kmeans").glob("iterative*.npz"))
    assert files
    for path in files:
        check_stored(np.load(path))


def check_stored(z):
    labels, k = z["labels"].astype(np.int64), int(z["K"])
    score = z["gold_score"] - z["gen_score"]
    mean = round_weights.cluster_scores(labels[z["selected"]], score, k)
    np.testing.assert_allclose(mean, z["cluster_mean_diff"], atol=1e-9)
    have = ~np.isnan(mean)
    share = round_weights.softmax(mean[have])
    np.testing.assert_allclose(share, z["weights_code_softmax"][have], atol=1e-9)
    np.testing.assert_allclose(share, z["official_p"], atol=1e-12)
    once = round_weights.update(z["weights_prev"], mean, "exp_multiplicative")
    np.testing.assert_allclose(once, z["weights_multiplicative"], atol=1e-9)
    twice = round_weights.update(once, z["cluster_score_round2"], "exp_multiplicative")
    np.testing.assert_allclose(twice, z["weights_multiplicative_round2"], atol=1e-9)
    filled = round_weights.update(z["weights_prev"], mean, "code")
    np.testing.assert_allclose(
        filled[have] / filled[have].sum(), z["weights_code_softmax"][have], atol=1e-9
    )
    assert (filled > 0).all() and filled.sum() == pytest.approx(1)
    left = np.bincount(np.delete(labels, z["selected"]), minlength=k)
    assert left.tolist() == z["remaining_per_cluster"].tolist()
    # The authors divide a round's budget once more by K; ours is the paper's.
    each = float(z["portion"]) * len(labels) / int(z["rounds"])
    assert int(z["iteration_budget"]) == round(each)
    assert int(z["official_num_draws"]) == int(len(labels) * z["portion"] / k / z["rounds"])
    count = int(z["rounds"])
    method = KMeansRounds(options={"labels": "c", "quality": None}, rounds=count)
    pool = Pool(len(labels), {"c": labels})
    found, _ = method.pick(method.start(pool, round(count * each), rng=rng()), pool)
    assert len(found.index) == int(z["iteration_budget"])


def test_stored_equations(vectors):
    (path,) = vectors("kmeans").glob("equations*.npz")
    z = np.load(path)
    new = round_weights.update(z["prev_weight"], z["cluster_score_positive"], "eq6")
    np.testing.assert_allclose(new, z["eq6_normalised"], atol=1e-12)
    np.testing.assert_allclose(new * z["eq6_raw"].sum(), z["eq6_raw"], atol=1e-12)
    # Equation 7 is the difference of mean losses that the caller gives as a score.
    np.testing.assert_allclose(
        np.log(z["ppl_gold"]) - np.log(z["ppl_gen"]), z["eq7_score"], atol=1e-12
    )


weights_and_scores = st.integers(2, 8).flatmap(
    lambda n: st.tuples(
        st.lists(st.floats(0.01, 1), min_size=n, max_size=n),
        st.lists(st.one_of(st.just(float("nan")), st.floats(-5, 5)), min_size=n, max_size=n),
    )
)


@settings(max_examples=200, deadline=None)
@given(weights_and_scores, st.sampled_from(["exp_multiplicative", "code", "eq6"]))
@example(([1.0] * 3, [float("nan"), 0.0, 5e-324]), "eq6")
@example(([1.0] * 3, [1.0, 2.0, 5e-324]), "eq6")
def test_weights_stay_weights(case, rule):
    weight, score = (np.asarray(v) for v in case)
    weight = weight / weight.sum()
    new = round_weights.update(weight, score, rule)
    assert (new > 0).all() and new.sum() == pytest.approx(1)
    if rule == "exp_multiplicative":
        np.testing.assert_allclose(round_weights.update(weight, score + 3, rule), new, rtol=1e-9)
        have = np.flatnonzero(~np.isnan(score))
        if len(have) > 1:
            up = have[np.argmax(score[have])]
            down = have[np.argmin(score[have])]
            assert new[up] / new[down] >= weight[up] / weight[down] * (1 - 1e-12)
            equal = np.where(np.isnan(score), np.nan, 1.0)
            np.testing.assert_allclose(round_weights.update(weight, equal, rule), weight)


def test_shrinking_draws_small_clusters_to_the_mean():
    labels = np.array([0] * 100 + [1])
    score = np.append(np.zeros(100), 10.0)
    free = round_weights.cluster_scores(labels, score, 3)
    held = round_weights.cluster_scores(labels, score, 3, shrink=5.0)
    assert free[1] == 10 and np.isnan(free[2]) and np.isnan(held[2])
    assert held[1] == pytest.approx((10 + 5 * score.mean()) / 6)
    # Weighted by rows, the mean of the cluster means is the mean of all scores.
    assert score.mean() == pytest.approx((100 * free[0] + free[1]) / 101)


def pool_of(n=300):
    r = rng(1)
    columns = {"c": r.integers(6, size=n), "q": r.uniform(1, 6, size=n)}
    return Pool(n, columns)


def rounds(**options):
    return KMeansRounds(options={"labels": "c", "quality": "q"}, **options)


def test_rounds_add_up_and_never_repeat():
    pool, method = pool_of(), rounds()
    state = method.start(pool, 100, rng=rng())
    seen = []
    for step in range(3):
        found, state = method.pick(state, pool)
        assert not set(found.index.tolist()) & set(seen)
        assert (found.rows["reason"] == "selected").sum() == len(found.index)
        assert (found.rows["reason"] == "picked_before").sum() == len(seen)
        seen += found.index.tolist()
        if step == 0:
            share = np.bincount(pool.columns["c"][found.index], minlength=6)
            assert share.max() - share.min() <= 1
        # Cluster 4 has most to learn.
        score = np.where(pool.columns["c"][state.picked] == 4, 3.0, 0.0)
        state = method.update(state, score)
    assert state.sizes.tolist() == [33, 33, 34] and state.picked.tolist() == seen
    assert len(seen) == 100
    last = np.bincount(pool.columns["c"][found.index], minlength=6)
    assert last.argmax() == 4 and state.weights[-1].argmax() == 4
    assert state.weights.shape == (4, 6) and state.scores.shape == (3, 6)
    with pytest.raises(DataError, match="all 3 rounds"):
        method.pick(state, pool)


def test_one_round_has_equal_shares_where_static_has_shares_by_size():
    pool = Pool(100, {"c": np.repeat([0, 1], [90, 10]), "q": np.ones(100)})
    method = rounds(rounds=1)
    found, _ = method.pick(method.start(pool, 20, rng=rng()), pool)
    assert np.bincount(pool.columns["c"][found.index]).tolist() == [10, 10]
    static = KMeans(labels="c", quality="q").select(pool, 20, rng=rng())
    assert np.bincount(pool.columns["c"][static.index]).tolist() == [18, 2]


def test_out_of_turn_and_wrong_scores():
    pool, method = pool_of(), rounds()
    _, state = method.pick(method.start(pool, 30, rng=rng()), pool)
    with pytest.raises(DataError, match="update before the next pick"):
        method.pick(state, pool)
    with pytest.raises(DataError, match="10 rows were picked so far and 9 scores"):
        method.update(state, np.zeros(9))
    with pytest.raises(DataError, match="NaN"):
        method.update(state, np.full(10, np.nan))
    with pytest.raises(RecipeError, match="kmeans_rounds"):
        rounds(rounds=0)
    with pytest.raises(RecipeError, match="decides on budget itself"):
        KMeansRounds(options={"budget": "equal"})
    with pytest.raises(RecipeError, match="kmeans has no option"):
        KMeansRounds(options={"labls": "c"})


def test_rows_without_a_score_do_not_count():
    pool, method = pool_of(), rounds()
    _, state = method.pick(method.start(pool, 60, rng=rng()), pool)
    score = rng(2).normal(size=20)
    label = state.labels[state.picked]
    score[label == 3] = np.nan
    score[0] = np.nan
    found = method.update(state, score)
    assert np.isnan(found.scores[0, 3])
    mine = (label == label[0]) & ~np.isnan(score)
    assert found.scores[0, label[0]] == pytest.approx(score[mine].mean())


def test_the_result_holds_all_rounds():
    pool, method = pool_of(), rounds(rounds=2)
    first, state = method.pick(method.start(pool, 31, rng=rng()), pool)
    second, state = method.pick(method.update(state, np.arange(15.0)), pool)
    found = method.result(state, pool)
    assert found.index.tolist() == [*first.index, *second.index]
    assert found.gain.tolist() == [*first.gain, *second.gain]
    assert np.flatnonzero(found.rows["reason"] == "selected").tolist() == sorted(found.index)
    assert found.curves["weights"].shape == (2, 6) and found.curves["scores"].shape == (1, 6)
    assert found.curves["picks"].tolist() == [15, 16]
    alone = method.select(pool, 31, rng=rng())
    assert len(alone.index) == 31 and alone.facts["rounds"] == 1
