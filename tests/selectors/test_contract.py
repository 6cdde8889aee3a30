"""What every method promises, whatever it does: one suite over all that are registered."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from tamis.errors import TamisError
from tamis.selectors import Pool, Ragged, Selection, Selector, build, names

N = 60
# The options that let each method run on the pool below.
OPTIONS: dict[str, list[dict]] = {
    "random": [{}],
    "stratified": [{"by": ["group"]}, {"by": ["group", "kind"], "length": "score", "bins": 3}],
    "top": [{"column": "score"}, {"column": "score", "largest": False}],
    "ids": [{"ids": [f"r{i:02}" for i in range(N)]}],
    "deita": [
        {"scores": ["score"], "embedding": "vector", "tau": 0.6},
        {"scores": ["turns", "turns"], "embedding": "vector", "tau": "auto"},
    ],
    "kmeans": [
        {"embedding": "vector", "quality": "score", "clusters": 6},
        {"embedding": "vector", "quality": None, "clusters": 6, "pick": "closest"},
        {"embedding": "vector", "quality": None, "clusters": "elbow", "pick": "closest"},
        {"embedding": "vector", "quality": None, "labels": "group", "pick": "closest"},
        {"embedding": "vector", "quality": "score", "labels": "group", "budget": "equal"},
    ],
    "kmeans_rounds": [
        {"options": {"embedding": "vector", "quality": "score", "clusters": 6}},
        {"options": {"quality": None, "labels": "group"}},
    ],
    "quota": [
        {"by": ["group"]},
        {"by": ["group", "kind"], "method": "top", "options": {"column": "score"}},
    ],
    "k_center": [{"embedding": "vector"}, {"embedding": "vector", "normalize": False}],
    "facility_location": [
        {"embedding": "vector"},
        {"embedding": "vector", "neighbours": 10},
        {"embedding": "vector", "greedy": "stochastic"},
        {"embedding": "vector", "partitions": 3},
    ],
    "cdas": [
        {"ifd": "score", "labels": "group"},
        {"ifd": "score", "embedding": "vector", "clusters": 3, "ratio": 0.5},
    ],
    "semdedup": [
        {"embedding": "vector", "clusters": 4},
        {"embedding": "vector", "clusters": 1, "keep": "first", "epsilon": 0.05},
    ],
    "instag_diversity": [{"labels": "tags"}, {"labels": "group", "repeat": False}],
    "mig": [
        {"labels": "tags", "score": "score"},
        {"labels": "group", "score": "score", "threshold": None, "gain": "exact"},
        {"labels": "tags", "score": "score", "threshold": "degree:2", "per_label": True},
    ],
    "dealrec": [
        {"influence": "score", "effort": "kind", "groups": 5, "hard_prune": 0.0, "clip": clip}
        for clip in (False, True)
    ],
    "adapt_inf": [
        {"vectors": "vector", "scores": ["score", "kind"], "clusters": 4},
        {"scores": ["score"], "labels": "group", "budget": "spread"},
        {"scores": ["kind"], "ifd": "score", "labels": "group", "draw": "official"},
        {"vectors": "vector", "labels": "group", "step": "prune"},
    ],
    "goracs": [
        {"embedding": "vector", "gradient": "score", "exchanges": 2, "tries": 3, "cut": 5},
        {"embedding": "vector", "sample": 6, "exchanges": 1, "official": True, "cut": 3},
    ],
    "gotd": [{"embedding": "vector", "iterations": 50}],
    "less": [{"features": ["vector"]}, {"features": ["vector", "vector"], "group": "group"}],
}
CASES = [
    pytest.param(name, options, id=f"{name}-{i}")
    for name in OPTIONS
    for i, options in enumerate(OPTIONS[name])
]
# Methods whose table of edge cases names NaN as a row to leave out and count, not as an error.
COUNTS_NAN = {"deita"}


def draws(name: str, options: dict) -> bool:
    """Whether rows are drawn at random, so that equal rows have equal chances."""
    if name == "facility_location":
        return options.get("greedy") == "stochastic" or "partitions" in options
    if name == "quota":
        return options.get("method", "random") == "random"
    if name == "adapt_inf":
        return options.get("step") != "prune"
    if name == "kmeans":
        return options.get("pick") != "closest"
    return name in {"random", "stratified", "dealrec", "kmeans_rounds"}


def permutable(name: str, options: dict) -> bool:
    """Whether row numbers decide nothing: no draws of rows or of the starts of k-means, and
    something else than ties (where each row has a single label, one scan sees ties alone).
    Pruning by adapt_inf measures a row against those before it in the pool, by definition."""
    started = name in {"kmeans", "cdas", "semdedup", "adapt_inf"} and "labels" not in options
    tied = name == "instag_diversity" and options["labels"] == "group"
    pruned = options.get("step") == "prune"
    return not draws(name, options) and not started and not tied and not pruned


every = pytest.mark.parametrize("name, options", CASES)


def those(wanted) -> pytest.MarkDecorator:
    """The cases for which a promise is made."""
    chosen = [case for case in CASES if wanted(*case.values)]
    assert chosen
    return pytest.mark.parametrize("name, options", chosen)


def columns(seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(8, 5))
    sizes = rng.integers(1, 4, size=N)
    indptr = np.concatenate([[0], np.cumsum(sizes)])
    return {
        "id": np.array([f"r{i:02}" for i in range(N)], dtype=object),
        "score": rng.permutation(N) / 7 + 0.5,
        "vector": (centres[rng.integers(8, size=N)] + 0.3 * rng.normal(size=(N, 5))).astype(
            np.float32
        ),
        "turns": Ragged(indptr.astype(np.int64), rng.uniform(1, 6, size=indptr[-1])),
        "group": np.array(list("abc"), dtype=object)[rng.integers(3, size=N)],
        "kind": rng.integers(2, size=N),
        "tags": lists([list("abcdefg")[: 1 + i % 4] + [f"t{i % 9}"] * (i % 3) for i in range(N)]),
    }


def lists(rows: list) -> np.ndarray:
    column = np.empty(len(rows), dtype=object)
    for i, row in enumerate(rows):
        column[i] = row
    return column


def target(given: dict) -> Pool:
    """Three rows like those of the pool."""
    rng = np.random.default_rng(1)
    vector = rng.normal(size=(3, given["vector"].shape[-1])).astype(np.float32)
    return Pool(3, {"vector": vector, "group": np.array(["x", "y", "x"], dtype=object)})


def described() -> Pool:
    """Every label that occurs in the column `tags`."""
    names = [*"abcdefg", *(f"t{i}" for i in range(9))]
    embedding = np.random.default_rng(2).normal(size=(len(names), 3))
    return Pool(len(names), {"name": np.array(names, dtype=object), "embedding": embedding})


def run(name: str, options: dict, k: int, given: dict | None = None, seed: int = 3) -> Selection:
    given = columns() if given is None else given
    pool = Pool(len(given["id"]), given, target(columns()), described())
    return build(name, options).select(pool, k, rng=np.random.default_rng(seed))


def check(found: Selection, n: int, k: int) -> None:
    assert found.index.dtype == np.int64 and found.gain.dtype == np.float64
    assert found.index.ndim == 1 and len(found.index) == len(found.gain) <= min(k, n)
    assert len(set(found.index.tolist())) == len(found.index)
    if len(found.index):
        assert found.index.min() >= 0 and found.index.max() < n
    assert np.isfinite(found.gain).all()
    assert len(found.rows["reason"]) == n
    assert all(isinstance(r, str) and r == r.lower() and r for r in found.rows["reason"])
    kept = np.flatnonzero(found.rows["reason"] == "selected")
    assert kept.tolist() == sorted(found.index.tolist())
    for rows in found.rows.values():
        assert len(rows) == n
    if "nearest_kept" in found.rows:
        near = found.rows["nearest_kept"]
        assert near.dtype == np.int64 and np.isin(near[near >= 0], found.index).all()
    for value in found.facts.values():
        assert isinstance(value, (int, float, str))


def taken(given: dict, rows: np.ndarray) -> dict:
    return {name: column[rows] for name, column in given.items()}


def test_every_method_is_covered():
    assert set(OPTIONS) == set(names())


@every
def test_is_a_selector(name, options):
    method = build(name, options)
    assert isinstance(method, Selector)
    assert method.name == name
    assert method.needs() <= set(columns())


@every
@pytest.mark.parametrize("k", [0, 1, 2, 7, 31, N, N + 1, 10 * N])
def test_shape_of_the_answer(name, options, k):
    check(run(name, options, k), N, k)


@every
def test_negative_and_fractional_budgets_are_refused(name, options):
    for k in (-1, -100, 2.5, "3", None):
        with pytest.raises(TamisError, match="budget"):
            run(name, options, k)


@every
def test_same_seed_same_answer(name, options):
    first, second = run(name, options, 20), run(name, options, 20)
    assert first.index.tolist() == second.index.tolist()
    assert first.gain.tobytes() == second.gain.tobytes()


@those(lambda name, options: build(name, options).prefix)
def test_prefix_methods_give_prefixes(name, options):
    longest = run(name, options, N).index.tolist()
    for k in range(0, N, 7):
        assert run(name, options, k).index.tolist() == longest[:k]


# The official draw misses its budget in both directions, as its page says.
@those(lambda name, options: not build(name, options).prefix and options.get("draw") != "official")
def test_others_never_give_fewer_rows_for_more_budget(name, options):
    counts = [len(run(name, options, k).index) for k in range(0, N + 1, 6)]
    assert counts == sorted(counts) and counts[0] == 0 < counts[-1]


@every
def test_precision_of_the_input_changes_nothing(name, options):
    given = columns()
    given["vector"] = np.round(given["vector"] * 16) / 16
    given["score"] = np.round(given["score"] * 8) / 8
    want = run(name, options, 20, given).index.tolist()
    for kind in (np.float16, np.float32, np.float64, object):
        changed = dict(
            given, vector=given["vector"].astype(kind), score=given["score"].astype(kind)
        )
        assert run(name, options, 20, changed).index.tolist() == want
    whole = dict(given, vector=(given["vector"] * 16), score=given["score"] * 8)
    ints = dict(whole, vector=whole["vector"].astype(np.int32), score=whole["score"].astype(int))
    assert (
        run(name, options, 20, whole).index.tolist() == run(name, options, 20, ints).index.tolist()
    )


@every
def test_memory_layout_changes_nothing(name, options):
    given = columns()
    want = run(name, options, 20, given).index.tolist()
    wide = np.zeros((N, 10), dtype=np.float32)
    wide[:, ::2] = given["vector"]
    score = np.zeros(2 * N)
    score[::2] = given["score"]
    for vector in (np.asfortranarray(given["vector"]), wide[:, ::2], given["vector"][:, None, :]):
        changed = dict(given, vector=vector, score=score[::2])
        assert run(name, options, 20, changed).index.tolist() == want


@every
def test_input_is_left_alone(name, options):
    given = columns()
    before = {n: (c.values if isinstance(c, Ragged) else c).copy() for n, c in given.items()}
    for column in given.values():
        for array in (column.indptr, column.values) if isinstance(column, Ragged) else (column,):
            array.setflags(write=False)
    run(name, options, 20, given)
    for n, old in before.items():
        now = given[n].values if isinstance(given[n], Ragged) else given[n]
        assert (now == old).all()


@every
def test_ties_and_duplicates(name, options):
    given = columns()
    rows = np.repeat(np.arange(6), 10)
    equal = taken(given, rows) | {"id": given["id"], "score": np.ones(N)}
    for k in (1, 5, 30, N):
        check(run(name, options, k, equal), N, k)


# `ids` takes the order that it is given.
@those(lambda name, options: not draws(name, options) and name != "ids")
def test_equal_rows_are_taken_from_the_lowest(name, options):
    given = columns()
    twice = taken(given, np.repeat(np.arange(N // 2), 2)) | {"id": given["id"]}
    index = run(name, options, 21, twice).index
    place = {row: at for at, row in enumerate(index.tolist())}
    for odd in index[index % 2 == 1].tolist():
        assert place[odd - 1] < place[odd]


@every
def test_one_row_and_none(name, options):
    given = columns()
    alone = taken(given, np.array([0]))
    if name == "ids":
        options = {"ids": ["r00"]}
    found = run(name, options, 5, alone)
    check(found, 1, 5)
    # cdas and the official draw of adapt_inf may never take this one row.
    if name != "cdas" and options.get("draw") != "official":
        assert found.index.tolist() == [0]
    if name == "ids":
        options = {"ids": []}
    none = run(name, options, 5, taken(given, np.empty(0, dtype=np.int64)))
    check(none, 0, 5)
    assert len(none.index) == 0


@every
def test_zero_vectors_are_no_trouble(name, options):
    given = columns()
    given["vector"] = given["vector"].copy()
    given["vector"][10:20] = 0
    check(run(name, options, 30, given), N, 30)
    given["vector"][:] = 0
    check(run(name, options, 30, given), N, 30)


@every
def test_nan_and_infinity_are_refused_or_counted(name, options):
    needs = build(name, options).needs()
    for column in needs & {"score", "vector"}:
        for bad in (np.nan, np.inf):
            given = columns()
            given[column] = given[column].copy()
            given[column][4] = bad
            if name in COUNTS_NAN and not (column == "score" and bad == np.inf):
                found = run(name, options, N, given)
                check(found, N, N)
                assert 4 not in found.index
                assert sum(found.facts[f] for f in ("no_score", "bad_embedding")) == 1
            else:
                with pytest.raises(TamisError, match=column):
                    run(name, options, 20, given)


@every
def test_missing_and_misshapen_columns_are_refused(name, options):
    method = build(name, options)
    for column in method.needs():
        given = columns()
        del given[column]
        with pytest.raises(TamisError, match=column):
            method.select(
                Pool(N, given, target(columns()), described()), 5, rng=np.random.default_rng(0)
            )
        given = columns()
        given[column] = given[column][np.arange(N - 1)]
        with pytest.raises(TamisError, match=column):
            method.select(
                Pool(N, given, target(columns()), described()), 5, rng=np.random.default_rng(0)
            )
        given = columns()
        if column in {"score", "turns"}:
            given[column] = np.array(["x"] * N, dtype=object)
            with pytest.raises(TamisError, match=column):
                method.select(
                    Pool(N, given, target(columns()), described()), 5, rng=np.random.default_rng(0)
                )
        if column == "vector":
            for wrong in (np.ones(N), np.ones((N, 2, 2)), np.array(["x"] * N, dtype=object)):
                given[column] = wrong
                with pytest.raises(TamisError, match=column):
                    method.select(
                        Pool(N, given, target(columns()), described()),
                        5,
                        rng=np.random.default_rng(0),
                    )


@those(permutable)
def test_permuting_the_pool_permutes_the_answer(name, options):
    given = columns()
    if name == "instag_diversity":
        given["tags"] = lists([[f"t{j}" for j in range(i + 1)] for i in range(N)])
    order = np.random.default_rng(9).permutation(N)
    want = given["id"][run(name, options, 10, given).index]
    shuffled = taken(given, order)
    got = shuffled["id"][run(name, options, 10, shuffled).index]
    assert got.tolist() == want.tolist()


@those(
    lambda name, options: (
        name in {"quota", "dealrec"} or (draws(name, options) and "labels" in options)
    )
)
def test_permuting_the_pool_leaves_the_count_of_each_group(name, options):
    given = columns()
    order = np.random.default_rng(9).permutation(N)

    def counts(given):
        found = run(name, options, 17, given)
        if name == "dealrec":
            return np.bincount(found.rows["cluster"][found.index], minlength=5).tolist()
        return sorted(given["group"][found.index].tolist())

    assert counts(taken(given, order)) == counts(given)


@every
def test_block_size_changes_nothing(name, options, monkeypatch):
    want = run(name, options, 20)
    for module in [m for path, m in sys.modules.items() if path.startswith("tamis.")]:
        for constant, value in {"_BLOCK": 7, "_WINDOW": 2, "_FIELD": 5, "CELLS": 64}.items():
            if hasattr(module, constant):
                monkeypatch.setattr(module, constant, value)
        if hasattr(module, "rows_per_block"):
            monkeypatch.setattr(module, "rows_per_block", lambda columns, cells=0: 3)
    got = run(name, options, 20)
    assert got.index.tolist() == want.index.tolist()
    np.testing.assert_allclose(got.gain, want.gain, rtol=1e-6, atol=1e-9)


@every
def test_thread_count_changes_nothing(name, options):
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        one = run(name, options, 20).index.tolist()
    with threadpool_limits(2):
        assert run(name, options, 20).index.tolist() == one
