"""mig: the stored orders exactly, and the dense definition by brute force."""

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.errors import DataError, RecipeError
from tamis.numerics.label_graph import LabelGraph, build, threshold_for
from tamis.selectors import Mig, Pool, Ragged
from tamis.selectors import mig as module


def rng(seed=0):
    return np.random.default_rng(seed)


def pool_of(labels, score, embedding, names=None):
    names = [str(i) for i in range(len(embedding))] if names is None else names
    described = Pool(
        len(embedding),
        {"name": np.array(names, dtype=object), "embedding": np.asarray(embedding, np.float32)},
    )
    n = len(score)
    return Pool(n, {"t": labels, "s": np.asarray(score, dtype=float)}, labels=described)


def cases(vectors):
    return json.loads((vectors("mig") / "cases.json").read_text())


def method(params, **more):
    return Mig(
        labels="t",
        score="s",
        threshold=params["threshold"],
        alpha=params["alpha"],
        phi=params["typ"],
        exponent=params["b"],
        offset=params["a"],
        rate=params["al"],
        per_label=params["norm"],
        **more,
    )


def test_stored_orders(vectors, monkeypatch):
    found = cases(vectors)
    files = {p.stem for p in vectors("mig").glob("*.npz")} - {"text_end_to_end_emb"}
    assert {case["case"] for case in found} == files
    for case in found:
        z = np.load(vectors("mig") / f"{case['case']}.npz")
        ragged = Ragged(z["labels_indptr"], z["labels_indices"])
        pool = pool_of(ragged, z["scores"], z["label_emb"])
        k = int(z["k"])
        for gain, name in (("gradient", "ref64"), ("exact", "exact64")):
            got = method(case["params"], gain=gain).select(pool, k, rng=rng())
            assert got.index.tolist() == z[f"order_{name}"].tolist(), (case["case"], gain)
            np.testing.assert_allclose(got.gain, z[f"gain_{name}"], rtol=1e-4, atol=1e-12)
            np.testing.assert_allclose(got.curves["information"], z[f"info_{name}"], rtol=1e-4)
            assert got.facts["labels"] == case["n_labels_used"]
        official = z["order_official"]
        assert len(official) == case["official_k"]
        assert z["order_ref64"][: len(official)].tolist() == official.tolist()


def spread_of(z, params):
    """The dense e of a stored case, from its own graph."""
    place = {label: at for at, label in enumerate(z["used_labels"].tolist())}
    raw = np.zeros((len(z["scores"]), len(place)))
    for i, score in enumerate(z["scores"]):
        own = z["labels_indices"][z["labels_indptr"][i] : z["labels_indptr"][i + 1]].tolist()
        for label in own:
            raw[i, place[label]] = score / len(own) if params["norm"] else score
    w = np.zeros((len(place), len(place)))
    rows = np.repeat(np.arange(len(place)), np.diff(z["W_indptr"]))
    w[rows, z["W_indices"]] = z["W_data"]
    m = np.where(np.eye(len(w), dtype=bool), w, params["alpha"] * w)
    return raw @ (m / m.sum(axis=0))


def test_stored_ties_and_gaps(vectors):
    """At each stored pick: how many candidates tie, and how far the next one lies."""
    for case in cases(vectors):
        z = np.load(vectors("mig") / f"{case['case']}.npz")
        p = case["params"]
        assert (case["n"], case["k"]) == (len(z["scores"]), z["k"])
        assert (case["n_labels_file"], case["n_labels_used"]) == (
            len(z["label_emb"]),
            len(z["used_labels"]),
        )
        assert case["edges_per_label"] == len(z["W_data"]) / len(z["used_labels"])
        assert case["steps_with_ties"] == (z["ntie_ref64"] > 1).sum()
        assert case["min_rel_gap"] == z["relgap_ref64"].min()
        apart = (z["order_ref64"] != z["order_exact64"]).sum()
        assert case["positions_differ_if_exact_gain"] == apart
        e, x = spread_of(z, p), np.zeros(len(z["used_labels"]))
        left = np.ones(len(e), dtype=bool)
        for step, pick in enumerate(z["order_ref64"][:150]):
            if p["typ"] == "exp":
                gains = e @ (p["al"] * np.exp(-p["al"] * x))
            else:
                gains = e @ (p["b"] * (x + p["a"]) ** (p["b"] - 1))
            gains = np.where(left, gains, -np.inf)
            best = gains.max()
            tied = left & (gains >= best - 1e-12 * abs(best))
            assert pick == np.flatnonzero(tied)[0], (case["case"], step)
            assert tied.sum() == z["ntie_ref64"][step], (case["case"], step)
            rest = gains[left & ~tied]
            if len(rest) and best > 0:
                gap = (best - rest.max()) / best
                assert gap == pytest.approx(z["relgap_ref64"][step], rel=1e-3, abs=1e-10)
            left[pick] = False
            x += e[pick]


def test_stored_graphs_and_values_on_them(vectors, monkeypatch):
    for case in cases(vectors):
        z = np.load(vectors("mig") / f"{case['case']}.npz")
        used = z["label_emb"][z["used_labels"]]
        graph = build(used, case["params"]["threshold"])
        assert graph.indptr.tolist() == z["W_indptr"].tolist(), case["case"]
        assert graph.indices.tolist() == z["W_indices"].tolist(), case["case"]
        np.testing.assert_allclose(graph.values, z["W_data"], atol=2e-6)
        stored = LabelGraph(
            z["W_indptr"], z["W_indices"], z["W_data"].astype(np.float64), graph.threshold
        )
        monkeypatch.setattr(module.label_graph, "build", lambda *_, g=stored: g)
        pool = pool_of(Ragged(z["labels_indptr"], z["labels_indices"]), z["scores"], z["label_emb"])
        got = method(case["params"]).select(pool, int(z["k"]), rng=rng())
        np.testing.assert_allclose(got.gain, z["gain_ref64"], rtol=1e-6, atol=1e-12)
        np.testing.assert_allclose(got.curves["information"], z["info_ref64"], rtol=1e-6)
        monkeypatch.undo()


def test_stored_text_case(vectors):
    case = json.loads((vectors("mig") / "text_end_to_end.json").read_text())
    z = np.load(vectors("mig") / "text_end_to_end_emb.npz")
    tags = np.empty(len(case["kept_ids"]), dtype=object)
    for i, row in enumerate(case["kept_labels"]):
        tags[i] = row
    pool = pool_of(tags, case["kept_scores"], z["label_emb"], case["graph_labels"])
    got = Mig(labels="t", score="s", threshold=case["sim_threshold"]).select(
        pool, case["k"], rng=rng()
    )
    assert [case["kept_ids"][i] for i in got.index] == case["selected_ids"]
    graph = build(z["label_emb"], case["sim_threshold"])
    edges = {
        frozenset((case["graph_labels"][a], case["graph_labels"][b])): w
        for a in range(len(case["graph_labels"]))
        for b, w in zip(
            graph.indices[graph.indptr[a] : graph.indptr[a + 1]],
            graph.values[graph.indptr[a] : graph.indptr[a + 1]],
            strict=True,
        )
        if a != b
    }
    want = {frozenset((a, b)): w for a, b, w in case["edges"]}
    assert edges.keys() == want.keys()
    for pair, weight in want.items():
        assert edges[pair] == pytest.approx(weight, abs=2e-6)
    np.testing.assert_allclose(graph.matrix().toarray(), z["W"], atol=2e-6)


def dense(labels, score, w, k, *, alpha, per_label, exact, phi, slope):
    """The definition: dense matrices, all gains at each pick, ties within 1e-12 to the lowest."""
    m = np.where(np.eye(len(w), dtype=bool), w, alpha * w)
    spread = m / m.sum(axis=0)
    raw = np.zeros((len(score), len(w)))
    for i, row in enumerate(labels):
        raw[i, row] = score[i] / len(row) if per_label and row else score[i]
    e = raw @ spread
    x = np.zeros(len(w))
    order, info = [], []
    for _ in range(min(k, len(score))):
        gains = (phi(x + e) - phi(x)).sum(axis=1) if exact else e @ slope(x)
        gains[order] = -1
        best = gains.max()
        order.append(int(np.flatnonzero(gains >= best - 1e-12 * abs(best))[0]))
        x = x + e[order[-1]]
        info.append(float((phi(x) - phi(np.zeros_like(x))).sum()))
    return order, info


@settings(max_examples=120, deadline=None)
@given(
    st.integers(0, 10**6),
    st.booleans(),
    st.booleans(),
    st.sampled_from([0.0, 0.6, 1.0]),
    st.booleans(),
)
def test_equals_the_dense_definition(seed, per_label, exact, alpha, ties):
    r = rng(seed)
    size, n = int(r.integers(1, 12)), int(r.integers(1, 60))
    embedding = r.normal(size=(size, 3)).astype(np.float32).astype(np.float64)
    labels = [r.integers(size, size=r.integers(0, 5)).tolist() for _ in range(n)]
    score = r.integers(0, 4, size=n).astype(float) if ties else r.uniform(0, 30, size=n)
    used = sorted({label for row in labels for label in row})
    unit = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    w = (unit @ unit.T)[np.ix_(used, used)]
    w = np.where(w >= 0.5, w, 0)
    np.fill_diagonal(w, 1.0)
    place = {label: i for i, label in enumerate(used)}
    inside = [[place[label] for label in row] for row in labels]
    order, info = dense(
        inside,
        score,
        w,
        n,
        alpha=alpha,
        per_label=per_label,
        exact=exact,
        phi=lambda x: (x + 1e-6) ** 0.8,
        slope=lambda x: 0.8 * (x + 1e-6) ** -0.2,
    )
    sizes = [len(row) for row in labels]
    ragged = Ragged(
        np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        np.array([label for row in labels for label in row], dtype=np.int64),
    )
    got = Mig(
        labels="t",
        score="s",
        threshold=0.5,
        alpha=alpha,
        per_label=per_label,
        gain="exact" if exact else "gradient",
    ).select(pool_of(ragged, score, embedding), n, rng=rng())
    np.testing.assert_allclose(got.curves["information"], info, rtol=1e-9)
    assert got.index.tolist() == order
    assert (np.diff(got.gain) <= 1e-9 * got.gain.max(initial=1)).all()


def test_greedy_guarantee_of_the_exact_gain():
    for seed in range(10):
        r = rng(seed)
        labels = [r.integers(6, size=3).tolist() for _ in range(10)]
        score = r.uniform(1, 30, size=10)
        e = np.zeros((10, 6))
        for i, row in enumerate(labels):
            e[i, row] = score[i]

        def value(rows, e=e):
            return float(((e[list(rows)].sum(axis=0) + 1e-6) ** 0.8 - 1e-6**0.8).sum())

        best = max(value(rows) for rows in itertools.combinations(range(10), 4))
        ragged = Ragged(np.arange(11, dtype=np.int64) * 3, np.array(labels).ravel())
        pool = Pool(10, {"t": ragged, "s": score})
        got = Mig(labels="t", score="s", threshold=None, gain="exact").select(pool, 4, rng=rng())
        assert value(got.index) >= (1 - 1 / math.e) * best
        assert got.curves["information"][-1] == pytest.approx(value(got.index), rel=1e-9)


def test_one_label_sorts_by_score_and_a_linear_phi_by_score_times_labels():
    r = rng(3)
    score = r.permutation(30) + 1.0
    one = Pool(30, {"t": np.array(["x"] * 30, dtype=object), "s": score})
    got = Mig(labels="t", score="s", threshold=None).select(one, 30, rng=rng())
    assert got.index.tolist() == np.argsort(-score).tolist()
    sizes = r.integers(1, 4, size=30)
    tags = np.empty(30, dtype=object)
    for i, m in enumerate(sizes):
        tags[i] = list("abc")[:m]
    pool = Pool(30, {"t": tags, "s": score + 0.001 * np.arange(30)})
    got = Mig(labels="t", score="s", threshold=None, exponent=1.0).select(pool, 30, rng=rng())
    worth = pool.columns["s"] * sizes
    assert got.index.tolist() == np.argsort(-worth, kind="stable").tolist()


def test_unlabelled_rows_and_empty_labels():
    tags = np.empty(5, dtype=object)
    for i, row in enumerate([[], ["a"], None, ["", "b"], [""]]):
        tags[i] = row
    pool = Pool(5, {"t": tags, "s": np.array([9.0, 1, 8, 2, 7])})
    found = Mig(labels="t", score="s", threshold=None).select(pool, 5, rng=rng())
    assert found.index.tolist() == [3, 1, 0, 2, 4]
    assert found.facts["unlabelled"] == 3 and found.facts["empty_labels"] == 2
    dropped = Mig(labels="t", score="s", threshold=None, unlabelled="drop").select(
        pool, 5, rng=rng()
    )
    assert dropped.index.tolist() == [3, 1]
    assert dropped.rows["reason"].tolist() == [
        "no_label",
        "selected",
        "no_label",
        "selected",
        "no_label",
    ]


def test_scores_that_underflow_end_in_pool_order():
    score = np.full(6, 5000.0)
    score[4] = 9000.0
    pool = Pool(6, {"t": np.array(["a"] * 6, dtype=object), "s": score})
    got = Mig(labels="t", score="s", threshold=None, phi="exp").select(pool, 6, rng=rng())
    assert got.index.tolist() == [4, 0, 1, 2, 3, 5]


def test_degree_rule_meets_its_target():
    embedding = rng(0).normal(size=(300, 8)).astype(np.float32)
    for wanted in (1.0, 2.0, 7.5):
        threshold = threshold_for(embedding, wanted)
        assert build(embedding, threshold).degrees.mean() == pytest.approx(wanted, abs=0.05)
    assert build(embedding, threshold_for(embedding, 0.0)).degrees.max() == 0


def test_graph_blocks_do_not_matter(monkeypatch):
    embedding = rng(1).normal(size=(70, 4)).astype(np.float32)
    whole, cut = build(embedding, 0.5), threshold_for(embedding, 3.0)
    monkeypatch.setattr("tamis.numerics.label_graph.rows_per_block", lambda columns: 9)
    parts = build(embedding, 0.5)
    assert parts.indices.tolist() == whole.indices.tolist()
    assert parts.values.tobytes() == whole.values.tobytes()
    assert threshold_for(embedding, 3.0) == cut


def test_refuses_nonsense():
    pool = pool_of(np.array(["0", "1"], dtype=object), [1.0, -1.0], np.eye(2))
    with pytest.raises(DataError, match="negative in 1 of 2 rows, first row 1"):
        Mig(labels="t", score="s").select(pool, 1, rng=rng())
    clipped = Mig(labels="t", score="s", negative="clip").select(pool, 2, rng=rng())
    assert clipped.index.tolist() == [0, 1]
    good = Pool(2, {"t": pool.columns["t"], "s": np.ones(2)})
    with pytest.raises(DataError, match="embedding of each label"):
        Mig(labels="t", score="s").select(good, 1, rng=rng())
    other = pool_of(np.array(["0", "z"], dtype=object), [1.0, 1.0], np.eye(2))
    with pytest.raises(DataError, match="1 of 2 labels have no embedding, the first is 'z'"):
        Mig(labels="t", score="s").select(other, 1, rng=rng())
    for wrong in (
        {"threshold": -0.1},
        {"threshold": "degree:x"},
        {"threshold": "two"},
        {"exponent": 1.5},
        {"alpha": -1.0},
    ):
        with pytest.raises(RecipeError, match="mig"):
            Mig(**wrong)


def test_weights_equal_but_for_rounding_tie():
    """0.3 / 3 is less than 0.1 by one bit: the same weight, so the lowest row comes first."""
    tags = np.empty(4, dtype=object)
    tags[:] = [["a", "a", "a"], ["a"], ["b"], ["b", "b", "b"]]
    assert 0.3 / 3 < 0.1
    for score, want in (([0.3, 0.1, 0, 0], [0, 1]), ([0, 0, 0.1, 0.3], [2, 3])):
        pool = Pool(4, {"t": tags, "s": np.array(score)})
        method = Mig(labels="t", score="s", threshold=None, per_label=True)
        assert method.select(pool, 2, rng=rng()).index.tolist() == want


def test_facts_tell_of_a_crowded_graph_and_of_a_budget_beyond_the_pool():
    near = np.ones((12, 3)) + 0.01 * rng().normal(size=(12, 3))
    tags = np.array([str(i) for i in range(12)], dtype=object)
    found = Mig(labels="t", score="s").select(pool_of(tags, np.ones(12), near), 12, rng=rng())
    assert found.facts["max_degree"] == 11 and "11 neighbours of 12" in found.facts["warning"]
    assert found.facts["truncated"] == 1 and len(found.index) == 12
    far = Mig(labels="t", score="s").select(pool_of(tags, np.ones(12), np.eye(12)), 11, rng=rng())
    assert "warning" not in far.facts and far.facts["truncated"] == 0


@pytest.mark.parametrize("window", [1, 3, 50])
def test_the_window_does_not_matter(window, monkeypatch):
    r = rng(6)
    sizes = r.integers(0, 4, size=400)
    indptr = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    ragged = Ragged(indptr, r.integers(25, size=indptr[-1]))
    for score in (r.uniform(0, 30, size=400), np.ones(400), r.integers(3, size=400) * 1.0):
        pool = pool_of(ragged, score, r.normal(size=(25, 3)))
        whole = Mig(labels="t", score="s", threshold=0.8).select(pool, 400, rng=rng())
        with monkeypatch.context() as patch:
            patch.setattr("tamis.numerics.gradient_information._WINDOW", window)
            patch.setattr("tamis.numerics.gradient_information._FIELD", 2 * window)
            parts = Mig(labels="t", score="s", threshold=0.8).select(pool, 400, rng=rng())
        assert parts.index.tolist() == whole.index.tolist()
