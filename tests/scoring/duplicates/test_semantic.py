"""Duplicates by meaning."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tamis.errors import RecipeError
from tamis.scoring.base import Rows
from tamis.scoring.duplicates import semantic
from tamis.scoring.duplicates.semantic import DuplicatesSemantic


def run(vectors: np.ndarray, keep: np.ndarray | None = None, **options: object) -> dict:
    columns = {"embed.vector": vectors} | ({} if keep is None else {"k.k": keep})
    rows = Rows(len(vectors), columns, lambda: iter(()))
    scorer = DuplicatesSemantic(keep=None if keep is None else "k.k", **options)
    scorer.check()
    return dict(scorer.score_pool(rows, advance=lambda _: None).columns)


def test_vectors(vectors: Callable[[str], Path]) -> None:
    cases = sorted(vectors("signals").glob("semantic_dedup*.npz"))
    assert cases
    for path in cases:
        case = np.load(path)
        x = case["embeddings"].astype(np.float32)
        zero = np.flatnonzero((x == 0).all(axis=1))
        answers = [name for name in case.files if "_0." in name]
        assert answers
        for name in answers:
            grouping, threshold = name.rsplit("_", 1)
            found = run(x, clusters=1, grouping=grouping, threshold=float(threshold))
            kept = np.flatnonzero(found["representative"] == 1)
            # A vector of length 0 has no direction: no value, and it matches nothing.
            assert sorted([*kept, *zero]) == sorted({*case[name].tolist(), *zero.tolist()})
            assert all(found["reason"][zero] == "no_vector")


def near(n: int, copies: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = np.repeat(rng.normal(size=(n, width)), copies, axis=0)
    x += 0.1 * rng.normal(size=x.shape)
    return x[rng.permutation(len(x))].astype(np.float32)


@pytest.mark.parametrize("grouping", ["greedy", "component"])
def test_against_all_pairs(grouping: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Several blocks, or the links between them would not be tested.
    monkeypatch.setattr(semantic, "rows_per_block", lambda columns: 17)
    x = near(40, 4, 12)
    keep = np.random.default_rng(1).integers(0, 5, len(x)).astype(float)
    found = run(x, keep, clusters=1, grouping=grouping, threshold=0.97)
    unit = x.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    cosine = unit @ unit.T
    order = sorted(range(len(x)), key=lambda i: (-keep[i], i))
    leader = dict.fromkeys(order, -1)
    for i in order:
        if grouping == "component" and leader[i] < 0:
            stack = [i]
            while stack:
                j = stack.pop()
                leader[j] = i
                stack += [m for m in order if leader[m] < 0 and cosine[j, m] >= 0.97]
        if grouping == "greedy":
            kept = [j for j in order if leader[j] == j and cosine[i, j] >= 0.97]
            leader[i] = max(kept, key=lambda j: cosine[i, j], default=i)
    own = np.array([leader[i] for i in range(len(x))])
    assert 1 < len(set(own)) < len(x)
    assert (found["representative"] == (own == np.arange(len(x)))).all()
    np.testing.assert_allclose(
        found["similarity"],
        np.where(own == np.arange(len(x)), 1, cosine[np.arange(len(x)), own]),
        atol=1e-7,
    )
    alike = own[:, None] == own
    assert (found["size"] == alike.sum(axis=1)).all()
    together = found["group"][:, None] == found["group"]
    assert (together == (alike & (found["size"] > 1))).all()


def test_clusters_keep_pairs_that_are_not_divided() -> None:
    x = near(50, 3, 32, seed=3)
    whole = run(x, clusters=1)
    parts = run(x, clusters=5)
    assert (parts["representative"] >= whole["representative"]).all()
    assert (parts["representative"] == whole["representative"]).mean() > 0.9
    again = run(x, clusters=5)
    assert all((parts[n] == again[n]).all() for n in ("representative", "similarity", "size"))


def test_rows_without_a_vector() -> None:
    x = np.ones((4, 3), dtype=np.float32)
    x[1] = np.nan
    x[2] = 0
    found = run(x)
    assert found["reason"].tolist() == [None, "no_vector", "no_vector", None]
    assert found["representative"][[0, 3]].tolist() == [1, 0]
    assert np.isnan(found["size"][[1, 2]]).all()
    assert run(np.full((2, 3), np.nan, dtype=np.float32))["reason"].tolist() == ["no_vector"] * 2


def test_a_cosine_of_exactly_the_threshold_counts() -> None:
    x = np.array([[1, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 1]], dtype=np.float32)
    for grouping in ("greedy", "component"):
        assert run(x, threshold=0.5, clusters=1, grouping=grouping)["size"].max() >= 2


@pytest.mark.parametrize("options", [{"threshold": 0.0}, {"threshold": 1.5}, {"clusters": 0}])
def test_options_out_of_range(options: dict) -> None:
    with pytest.raises(RecipeError, match="must be"):
        run(np.ones((2, 2), dtype=np.float32), **options)
