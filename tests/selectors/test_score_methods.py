"""cdas, semdedup, instag_diversity and less against stored cases and literal loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.errors import DataError, RecipeError
from tamis.selectors import Cdas, InsTagDiversity, Less, Pool, Ragged, SemDeDup
from tamis.selectors.semdedup import earlier_maximum


def rng(seed=0):
    return np.random.default_rng(seed)


def objects(rows):
    column = np.empty(len(rows), dtype=object)
    for i, row in enumerate(rows):
        column[i] = row
    return column


def test_stored_cdas(vectors):
    (path,) = vectors("codeact").glob("cdas_select*.npz")
    z = np.load(path)
    columns = {"i": z["ifd"], "v": z["embeddings"], "c": z["labels"]}
    pool = Pool(len(z["ifd"]), columns)
    given_labels = Cdas(ifd="i", labels="c", ratio=float(z["ratio"]))
    found = given_labels.select(pool, pool.n, rng=rng())
    assert found.index.tolist() == z["selected_in_order"].tolist()
    own = Cdas(ifd="i", embedding="v", clusters=int(z["K"]), ratio=float(z["ratio"]))
    # Well separated clusters: with a few starts k-means finds the same ones.
    sets = [set(own.select(pool, pool.n, rng=rng(s)).index.tolist()) for s in range(10)]
    assert set(z["selected_in_order"].tolist()) in sets


def test_cdas_budget_and_borders():
    ifd = np.array([1.0, 0.99, 0.5, 0.7, 1.5, 0.2, 0.9, 0.1])
    pool = Pool(8, {"i": ifd, "c": np.array([0, 0, 0, 0, 1, 1, 1, 1])})
    found = Cdas(ifd="i", labels="c").select(pool, 4, rng=rng())
    assert found.index.tolist() == [1, 3, 6, 5]
    assert found.rows["reason"][[0, 4]].tolist() == ["ifd_not_below_1"] * 2
    assert Cdas(ifd="i", labels="c").select(pool, 8, rng=rng()).index.tolist() == [1, 3, 2, 6, 5, 7]
    halves = Cdas(ifd="i", labels="c", ratio=0.7).select(pool, 8, rng=rng())
    assert halves.index.tolist() == [1, 3, 6, 5]
    for wrong in ({"clusters": 0}, {"ratio": 0.0}):
        with pytest.raises(RecipeError, match="cdas"):
            Cdas(**wrong)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 30))
def test_earlier_maximum_equals_the_loop(seed, n):
    r = rng(seed)
    x = r.integers(-2, 3, size=(n, 3)).astype(np.float32)
    labels, order = r.integers(3, size=n), r.permutation(n)
    value, nearest = earlier_maximum(x, labels, order)
    unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-30)
    for at, row in enumerate(order):
        before = [other for other in order[:at] if labels[other] == labels[row]]
        if not before:
            assert (value[row], nearest[row]) == (-1, -1)
            continue
        cos = np.round([unit[row].astype(float) @ unit[o].astype(float) for o in before], 6)
        assert value[row] == pytest.approx(cos.max(), abs=1e-6)
        assert nearest[row] == before[int(cos.argmax())]


def test_earlier_maximum_in_blocks(monkeypatch):
    x = rng(1).normal(size=(90, 4)).astype(np.float32)
    labels, order = rng(2).integers(3, size=90), rng(3).permutation(90)
    want = earlier_maximum(x, labels, order)
    monkeypatch.setattr("tamis.selectors.semdedup.rows_per_block", lambda columns: 7)
    got = earlier_maximum(x, labels, order)
    assert (got[0] == want[0]).all() and (got[1] == want[1]).all()


def test_semdedup_drops_copies_first():
    r = rng(1)
    x = r.normal(size=(60, 12))
    x = np.concatenate([x, x[:40] + 1e-3 * r.normal(size=(40, 12))]).astype(np.float32)
    pool = Pool(100, {"embed.vector": x})
    for keep in ("far", "near", "first"):
        found = SemDeDup(clusters=3, keep=keep).select(pool, 60, rng=rng())
        assert sorted((found.index % 60).tolist()) == list(range(60)) if keep == "first" else True
        assert len({row % 60 if row < 60 else row - 60 for row in found.index.tolist()}) == 60
    strict = SemDeDup(clusters=3, epsilon=0.01).select(pool, 100, rng=rng())
    assert len(strict.index) == 60
    assert (strict.rows["reason"] == "too_similar").sum() == 40
    gone = strict.rows["reason"] == "too_similar"
    assert (strict.rows["similarity"][gone] > 0.99).all()


def test_semdedup_order_inside_a_cluster():
    # Three near copies; the mean lies at the second. Far first keeps an outer one.
    x = np.array([[1, 0.0], [1, 0.02], [1, 0.05]], dtype=np.float32)
    pool = Pool(3, {"embed.vector": x})
    pick = {
        keep: SemDeDup(clusters=1, keep=keep).select(pool, 1, rng=rng()).index.tolist()
        for keep in ("far", "near", "first")
    }
    assert pick == {"far": [2], "near": [1], "first": [0]}


def scan_loop(labels, k, repeat):
    order = sorted(range(len(labels)), key=lambda i: -len(set(labels[i])))
    order = [i for i in order if labels[i]]
    picked = []
    while order and len(picked) < k:
        seen, now = set(), []
        for i in order:
            if len(picked) + len(now) < k and set(labels[i]) - seen:
                now.append(i)
                seen |= set(labels[i])
        picked += now
        order = [i for i in order if i not in now]
        if not repeat:
            break
    return picked


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from("abcdefg"), max_size=5), max_size=30),
    st.integers(0, 35),
    st.booleans(),
)
def test_instag_equals_the_loop(labels, k, repeat):
    pool = Pool(len(labels), {"tags.labels": objects(labels)})
    found = InsTagDiversity(repeat=repeat).select(pool, k, rng=rng())
    assert found.index.tolist() == scan_loop(labels, k, repeat)
    if not repeat:
        covered = {tag for i in found.index for tag in labels[i]}
        assert found.gain.sum() == len(covered)


def test_instag_over_blocks_and_numbers(monkeypatch):
    r = rng(5)
    sizes = r.integers(0, 4, size=300)
    indptr = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    column = Ragged(indptr, r.integers(40, size=indptr[-1]))
    lists = [column.values[indptr[i] : indptr[i + 1]].tolist() for i in range(300)]
    monkeypatch.setattr("tamis.selectors.instag_diversity._BLOCK", 16)
    found = InsTagDiversity(labels="t").select(Pool(300, {"t": column}), 200, rng=rng())
    assert found.index.tolist() == scan_loop(lists, 200, True)


def test_less_equals_the_formula():
    r = rng(0)
    f1, f2 = r.normal(size=(40, 5)), r.normal(size=(40, 3))
    t1, t2 = r.normal(size=(9, 5)), r.normal(size=(9, 3))
    task = np.array(list("abcabcabc"), dtype=object)
    pool = Pool(40, {"f1": f1, "f2": f2}, target=Pool(9, {"f1": t1, "f2": t2, "task": task}))

    def cos(a, b):
        return (a @ b) / np.linalg.norm(a) / np.linalg.norm(b)

    per_group = np.array(
        [
            [
                np.mean(
                    [
                        0.2 * cos(f1[i], t1[j]) + 0.05 * cos(f2[i], t2[j])
                        for j in range(9)
                        if task[j] == g
                    ]
                )
                for g in "abc"
            ]
            for i in range(40)
        ]
    )
    options = {"features": ("f1", "f2"), "weights": (0.2, 0.05), "group": "task"}
    for how, want in (("max", per_group.max(axis=1)), ("mean", per_group.mean(axis=1))):
        found = Less(**options, over_groups=how).select(pool, 40, rng=rng())
        np.testing.assert_allclose(found.gain, np.sort(want)[::-1], atol=1e-6)
        assert found.index.tolist() == np.argsort(-want, kind="stable").tolist()
    assert found.rows["cluster"].tolist() == per_group.argmax(axis=1).tolist()


def less_loop(pool, features, weights, group, over):
    """Cosine by cosine."""
    target = pool.target
    names = sorted(set(target.columns[group].tolist())) if group else [None]
    scores = np.zeros(pool.n)
    for i in range(pool.n):
        found = []
        for name in names:
            rows = [j for j in range(target.n) if group is None or target.columns[group][j] == name]
            value = 0.0
            for feature, weight in zip(features, weights, strict=True):
                a = pool.columns[feature][i].astype(float)
                cosines = []
                for j in rows:
                    b = target.columns[feature][j].astype(float)
                    size = np.sqrt(a @ a) * np.sqrt(b @ b)
                    cosines.append(a @ b / size if size else 0.0)
                value += weight * sum(cosines) / len(cosines)
            found.append(value)
        scores[i] = max(found) if over == "max" else sum(found) / len(found)
    return scores


@settings(max_examples=40)
@given(
    st.integers(0, 10**6),
    st.integers(1, 25),
    st.integers(1, 8),
    st.integers(1, 3),
    st.booleans(),
    st.sampled_from(["max", "mean"]),
)
def test_less_equals_the_loop(seed, n, m, checkpoints, grouped, over):
    r = rng(seed)
    features = tuple(f"f{c}" for c in range(checkpoints))
    weights = tuple(r.uniform(0.01, 1, size=checkpoints).tolist())
    # Small whole numbers: zero vectors, copies and ties among them.
    given_pool = {f: r.integers(-2, 3, size=(n, 3)).astype(np.float32) for f in features}
    given_target = {f: r.integers(-2, 3, size=(m, 3)).astype(np.float32) for f in features}
    given_target["task"] = np.array(list("abc"), dtype=object)[r.integers(3, size=m)]
    pool = Pool(n, given_pool, target=Pool(m, given_target))
    group = "task" if grouped else None
    want = less_loop(pool, features, weights, group, over)
    method = Less(features=features, weights=weights, group=group, over_groups=over)
    found = method.select(pool, n, rng=rng())
    assert found.index.tolist() == np.argsort(-np.round(want, 10), kind="stable").tolist()
    np.testing.assert_allclose(found.gain, want[found.index], atol=1e-9)


def test_less_picks_the_same_in_blocks_and_precisions(monkeypatch):
    r = rng(4)
    x, y = r.normal(size=(50, 6)).astype(np.float16), r.normal(size=(7, 6)).astype(np.float16)

    def picks(kind):
        pool = Pool(50, {"g": x.astype(kind)}, target=Pool(7, {"g": y.astype(kind)}))
        return Less(features=("g",)).select(pool, 20, rng=rng()).index.tolist()

    want = picks(np.float32)
    assert picks(np.float16) == picks(np.float64) == want
    monkeypatch.setattr("tamis.selectors.less.rows_per_block", lambda columns: 3)
    assert picks(np.float32) == want


def test_less_refuses_bad_features_of_the_target():
    x = rng().normal(size=(6, 3))
    for bad in (np.nan, np.inf):
        y = x.copy()
        y[1, 2] = bad
        for pool in (Pool(6, {"g": x}, Pool(6, {"g": y})), Pool(6, {"g": y}, Pool(6, {"g": x}))):
            with pytest.raises(DataError, match="column g has NaN or infinity"):
                Less(features=("g",)).select(pool, 2, rng=rng())
    with pytest.raises(DataError, match="task"):
        Less(features=("g",), group="task").select(
            Pool(6, {"g": x}, Pool(6, {"g": x})), 2, rng=rng()
        )


def test_less_needs_a_fitting_target():
    x = rng().normal(size=(4, 3))
    with pytest.raises(DataError, match="needs a target"):
        Less(features=("g",)).select(Pool(4, {"g": x}), 2, rng=rng())
    with pytest.raises(DataError, match="at least one row"):
        Less(features=("g",)).select(Pool(4, {"g": x}, Pool(0, {"g": x[:0]})), 2, rng=rng())
    with pytest.raises(DataError, match="3 numbers a row in the pool and 2"):
        Less(features=("g",)).select(Pool(4, {"g": x}, Pool(1, {"g": x[:1, :2]})), 2, rng=rng())
    with pytest.raises(RecipeError, match="one number for each"):
        Less(weights=(0.1, 0.2))


def test_less_says_what_it_needs_of_the_target():
    assert Less.target == "required"
    assert Less(features=("f", "h"), group="task").target_needs() == {"f", "h", "task"}
    assert Less(features=("f",)).target_needs() == {"f"} == Less(features=("f",)).needs()
