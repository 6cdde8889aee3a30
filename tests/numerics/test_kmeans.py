"""k-means finds planted clusters, the same ones each time; K is chosen by silhouette or elbow."""

import itertools

import numpy as np
import pytest

from tamis.errors import DataError
from tamis.numerics.kmeans import cluster, means, plus_plus
from tamis.numerics.silhouette import elbow, inertia, silhouette, simplified_silhouette


@pytest.fixture
def blobs(vectors):
    (path,) = vectors("kmeans").glob("choose_k*.npz")
    return np.load(path)


def same_partition(a, b):
    pairs = set(zip(a.tolist(), b.tolist(), strict=True))
    return len(pairs) == len(set(a.tolist())) == len(set(b.tolist()))


def test_stored_scores_of_given_labels(blobs):
    x = blobs["embeddings"]
    for labels, full, simple, total in zip(
        blobs["labels"],
        blobs["silhouette"],
        blobs["simplified_silhouette"],
        blobs["inertia"],
        strict=True,
    ):
        assert silhouette(x, labels) == pytest.approx(full, abs=1e-6)
        assert simplified_silhouette(x, labels) == pytest.approx(simple, abs=1e-6)
        assert inertia(x, labels) == pytest.approx(total, rel=1e-6)


@pytest.mark.parametrize("engine", ["numpy", "torch", "faiss"])
def test_finds_planted_blobs_and_their_number(blobs, engine):
    if engine == "faiss":
        pytest.importorskip("faiss")
    from sklearn.metrics import adjusted_rand_score

    x, true = blobs["embeddings"], blobs["true_blobs"]
    scores, totals = [], []
    for k in blobs["Ks"]:
        found = cluster(
            x, int(k), rng=np.random.default_rng(3), restarts=10, iterations=100, engine=engine
        )
        scores.append(silhouette(x, found.labels))
        totals.append(found.inertia)
        assert found.inertia == pytest.approx(inertia(x, found.labels), rel=1e-3)
        assert found.engine.startswith(engine)
        if k == len(set(true.tolist())):
            assert adjusted_rand_score(true, found.labels) >= 0.99
    assert blobs["Ks"][np.argmax(scores)] == blobs["best_K_by_silhouette"]
    assert elbow(blobs["Ks"], totals) == blobs["best_K_by_silhouette"]


def test_silhouette_equals_sklearn_with_single_members():
    from sklearn.metrics import silhouette_score

    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 3)).astype(np.float32)
    labels = rng.integers(0, 5, size=60)
    labels[0] = 9
    assert silhouette(x, labels) == pytest.approx(
        silhouette_score(x.astype(np.float64), labels), abs=1e-9
    )


def test_same_labels_for_every_block_size():
    rng = np.random.default_rng(0)
    x = np.repeat(rng.normal(size=(150, 8)), 2, axis=0).astype(np.float32)
    runs = [cluster(x, 11, rng=np.random.default_rng(5), block=b) for b in (None, 1, 13, 300)]
    for run in runs[1:]:
        assert run.labels.tolist() == runs[0].labels.tolist()
        assert run.centres.tobytes() == runs[0].centres.tobytes()


def test_optimum_of_tiny_inputs():
    rng = np.random.default_rng(1)
    for _ in range(10):
        x = rng.normal(size=(7, 2)).astype(np.float32)
        best = min(
            inertia(x, np.asarray(labels))
            for labels in itertools.product(range(2), repeat=7)
            if len(set(labels)) == 2
        )
        found = cluster(x, 2, rng=rng, restarts=30, tolerance=0)
        assert found.inertia == pytest.approx(best, rel=1e-5)


def test_fewer_distinct_rows_than_clusters():
    x = np.repeat(np.eye(3, dtype=np.float32), 20, axis=0)
    found = cluster(x, 8, rng=np.random.default_rng(0))
    assert found.sizes.tolist() == [20, 20, 20] and found.inertia == 0
    assert same_partition(found.labels, np.repeat(np.arange(3), 20))
    alone = cluster(x[:1], 5, rng=np.random.default_rng(0))
    assert alone.labels.tolist() == [0]
    with pytest.raises(DataError):
        cluster(x[:0], 2, rng=np.random.default_rng(0))


def test_starts_follow_squared_distance():
    # Two far points out of many near ones: the second start is one of them almost surely.
    x = np.zeros((100, 1), dtype=np.float32)
    x[7], x[50] = 30.0, -10.0
    firsts = [plus_plus(x, 2, np.random.default_rng(s)).ravel() for s in range(200)]
    from_zero = [pair[1] for pair in firsts if pair[0] == 0]
    share = np.mean([value == 30 for value in from_zero])
    assert abs(share - 0.9) < 5 * np.sqrt(0.09 / len(from_zero))


def test_means_are_exact():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(50, 4)).astype(np.float32)
    labels = rng.integers(0, 3, size=50)
    got, sizes = means(x, labels, 4)
    assert sizes.tolist() == [*np.bincount(labels, minlength=3).tolist(), 0]
    for j in range(3):
        np.testing.assert_allclose(got[j], x[labels == j].astype(np.float64).mean(axis=0))
    assert got[3].tolist() == [0, 0, 0, 0]


def test_elbow_of_a_bent_line():
    assert elbow([1, 2, 4, 8, 16], [100, 50, 10, 8, 6]) == 4
    assert elbow([4, 8], [3, 1]) == 4
