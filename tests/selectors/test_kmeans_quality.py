"""kmeans: shares, draws and stored cases of static k-means-quality."""

import numpy as np
import pytest

from tamis.errors import DataError, RecipeError
from tamis.numerics.kmeans import means
from tamis.selectors import KMeans, Pool


@pytest.fixture
def static(vectors):
    (path,) = vectors("kmeans").glob("static*.npz")
    return np.load(path)


def pool_of(z):
    columns = {"v": z["embeddings"], "q": z["scores"], "c": z["labels"]}
    return Pool(len(z["labels"]), columns)


def method(**options):
    return KMeans(**{"embedding": "v", "quality": "q", "labels": "c", **options})


def rng(seed=0):
    return np.random.default_rng(seed)


def counts(found, z):
    return np.bincount(z["labels"][found.index], minlength=int(z["K"])).tolist()


def test_shares_of_the_stored_case(static):
    k = int(static["coreset_size"])
    proportional = method().select(pool_of(static), k, rng=rng())
    assert counts(proportional, static) == static["budget_proportional"].tolist()
    floored = method(budget="equal_floor").select(pool_of(static), k, rng=rng())
    assert counts(floored, static) == static["budget_equal_floor"].tolist()
    # Every official class with equal budgets, whatever it does inside a cluster.
    for name in (
        "kmq_equal_budget",
        "kmeans_random_equal_budget",
        "median_distance",
        "median_score",
    ):
        rows = static[f"official_{name}"]
        assert len(set(rows.tolist())) == len(rows)
        official = np.bincount(static["labels"][rows], minlength=int(static["K"]))
        assert counts(floored, static) == official.tolist()
    equal = method(budget="equal").select(pool_of(static), k, rng=rng())
    assert len(equal.index) == k == len(static["official_random"])
    # The official dynamic class overshoots the budget.
    assert len(static["official_dynamic"]) > k


def test_official_first_round_of_the_stored_case(static):
    first = method(quality=None, budget="equal_floor").select(
        pool_of(static), int(static["coreset_size"]) // 3, rng=rng()
    )
    official = np.bincount(static["labels"][static["official_iter0"]], minlength=int(static["K"]))
    assert counts(first, static) == official.tolist()


def test_inputs_of_the_stored_case(static):
    """Sizes, means and distances that the case gives are those that its labels tell."""
    x, labels, k = static["embeddings"], static["labels"].astype(np.int64), int(static["K"])
    assert int(static["coreset_size"]) == round(len(x) * float(static["fraction"]))
    centres, sizes = means(x, labels, k)
    assert sizes.tolist() == static["cluster_size"].tolist()
    np.testing.assert_allclose(centres, static["centroids"], atol=1e-5)
    gap = ((x - centres[labels]) ** 2).sum(axis=1)
    np.testing.assert_allclose(gap, static["dist2"], rtol=1e-4, atol=1e-5)


def test_closest_rows_of_the_stored_case(static):
    found = method(pick="closest", normalize=False).select(
        pool_of(static), int(static["coreset_size"]), rng=rng()
    )
    assert found.index.tolist() == static["closest_proportional"].tolist()


@pytest.mark.parametrize(
    "options, name",
    [({"standardize": False}, "softmax"), ({"weight": "linear"}, "linear")],
)
def test_weights_of_the_stored_case(static, options, name):
    labels = static["labels"].astype(np.int64)
    weights = np.exp(method(**options).log_weights(static["scores"].astype(float), labels))
    total = np.bincount(labels, weights)
    np.testing.assert_allclose(
        weights / total[labels], static[f"prob_{name}_within_cluster"], rtol=1e-9
    )


def test_first_draws_follow_the_weights(static):
    labels = static["labels"].astype(np.int64)
    want = static["prob_linear_within_cluster"]
    hits = np.zeros(len(labels))
    repeats = 2000
    pool = pool_of(static)
    for seed in range(repeats):
        found = method(weight="linear", budget="equal").select(
            pool, int(static["K"]), rng=rng(seed)
        )
        hits[found.index] += 1
    error = np.sqrt(repeats * want * (1 - want))
    often = repeats * want >= 10
    assert often.sum() > 100
    assert (np.abs(hits - repeats * want)[often] < 5 * error[often]).all()


def test_default_weights_are_those_of_z_scores(static):
    q = static["scores"].astype(float)
    weights = method(temperature=2.0).log_weights(q, static["labels"])
    np.testing.assert_allclose(weights, (q - q.mean()) / q.std() / 2)
    assert (method().log_weights(np.full(5, 3.0), np.zeros(5, dtype=int)) == 0).all()


def test_clusters_are_found_and_shared():
    r = rng(1)
    centres = 10 * np.eye(4)
    true = r.integers(4, size=400)
    x = (centres[true] + 0.1 * r.normal(size=(400, 4))).astype(np.float32)
    pool = Pool(400, {"v": x})
    for clusters in (4, "silhouette", "elbow"):
        found = KMeans(embedding="v", quality=None, clusters=clusters, restarts=5).select(
            pool, 100, rng=rng()
        )
        assert found.facts["clusters"] == 4
        share = np.bincount(true[found.index], minlength=4) - np.bincount(true) / 4
        assert (np.abs(share) < 1).all() and len(found.index) == 100
        pairs = set(zip(true.tolist(), found.rows["cluster"].tolist(), strict=True))
        assert len(pairs) == 4


def test_clusters_above_the_budget_are_lowered_to_half_of_it():
    x = rng().normal(size=(100, 3)).astype(np.float32)
    found = KMeans(embedding="v", quality=None, clusters=64).select(
        Pool(100, {"v": x}), 20, rng=rng()
    )
    assert found.facts["clusters"] <= 10 and found.facts["clusters_lowered_from"] == 64
    kept = KMeans(embedding="v", quality=None, clusters=20).select(
        Pool(100, {"v": x}), 20, rng=rng()
    )
    assert kept.facts["clusters"] == 20 and "clusters_lowered_from" not in kept.facts


def test_zero_rows_form_their_own_cluster():
    x = rng().normal(size=(50, 3)).astype(np.float32)
    x[::5] = 0
    found = KMeans(embedding="v", quality=None, clusters=3).select(
        Pool(50, {"v": x}), 25, rng=rng()
    )
    cluster = found.rows["cluster"]
    assert len(set(cluster[::5].tolist())) == 1
    assert cluster[0] not in cluster[x.any(axis=1)]


def test_refuses_nonsense():
    with pytest.raises(DataError, match="negative"):
        method(weight="linear").select(
            Pool(2, {"c": np.array([0, 0]), "q": np.array([1.0, -1.0])}), 1, rng=rng()
        )
    for wrong in ({"clusters": 0}, {"temperature": 0.0}, {"restarts": 0}):
        with pytest.raises(RecipeError, match="kmeans"):
            KMeans(**wrong)
