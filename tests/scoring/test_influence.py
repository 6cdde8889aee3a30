"""The influence scorer on gradients, and on an embedding with labels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tamis.errors import DataError, RecipeError
from tamis.numerics import influence
from tamis.numerics.ragged import Ragged
from tamis.scoring.base import PoolColumns, Rows
from tamis.scoring.influence import Influence


def nothing() -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
    return iter(())


def score(scorer: Influence, **columns: Any) -> PoolColumns:
    named = {scorer.vectors: columns["vectors"]}
    if scorer.labels is not None:
        named[scorer.labels] = columns["labels"]
    told: list[int] = []
    n = len(columns["vectors"])
    found = scorer.score_pool(Rows(n, named, nothing), advance=told.append)
    assert sum(told) == n
    assert tuple(found.columns) == scorer.fields
    return found


def test_of_gradients_it_is_the_damped_product() -> None:
    g = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    g[7] = np.nan
    found = score(Influence(damping=0.2), vectors=g)
    rest = np.delete(g, 7, axis=0).astype(np.float64)
    fisher = rest.T @ rest / 39
    damped = fisher + 0.2 * np.trace(fisher) / 5 * np.eye(5)
    expected = rest @ np.linalg.solve(damped, rest.mean(axis=0))
    value = found.columns["value"]
    np.testing.assert_allclose(np.delete(value, 7), expected, rtol=1e-6, atol=1e-9)
    assert np.isnan(value[7])
    assert found.columns["reason"].tolist() == [*[None] * 7, "no_vector", *[None] * 32]
    size = np.linalg.norm(rest.mean(axis=0))
    assert found.facts["gradient_norm"] == pytest.approx(size, abs=1e-6)


@pytest.mark.parametrize("solver", ["exact", "lissa"])
def test_with_labels_it_is_of_softmax_regression(solver: Any) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(60, 3)).astype(np.float32)
    labels = np.array([["a", "b", "c"][i] for i in (x + rng.gumbel(size=x.shape)).argmax(axis=1)])
    labels = labels.astype(object)
    labels[4], labels[9] = None, None
    scorer = Influence("embed.vector", "topic", solver=solver, depth=4000)
    value = score(scorer, vectors=x, labels=labels).columns["value"]
    some = np.delete(np.arange(60), [4, 9])
    assert np.isnan(value).nonzero()[0].tolist() == [4, 9]
    y = np.array(["abc".index(name) for name in labels[some]])
    model = influence.fit(x[some], y, 3, decay=1e-3)
    hessian = np.stack([model.product(row) for row in np.eye(9)])
    damping = 0.1 * np.trace(hessian) / 9 if solver == "exact" else 0.25
    h = np.linalg.solve(hessian + damping * np.eye(9), model.gradient())
    if solver == "exact":
        np.testing.assert_allclose(value[some], model.dots(h), rtol=1e-5, atol=1e-9)
    else:
        assert np.corrcoef(value[some], model.dots(h))[0, 1] > 0.9
    numbers = np.array([np.nan if x is None else "abc".index(x) for x in labels])
    again = score(scorer, vectors=x, labels=numbers)
    np.testing.assert_allclose(again.columns["value"], value, rtol=1e-9)
    assert again.columns["reason"][4] == "no_label"


def test_order_does_not_matter_and_scaling_keeps_the_ranking() -> None:
    g = np.random.default_rng(2).normal(1, size=(30, 4)).astype(np.float32)
    first = score(Influence(), vectors=g).columns["value"]
    order = np.random.default_rng(3).permutation(30)
    mixed = score(Influence(), vectors=g[order]).columns["value"]
    np.testing.assert_allclose(mixed, first[order], rtol=1e-6)
    larger = score(Influence(), vectors=1000 * g).columns["value"]
    np.testing.assert_array_equal(np.argsort(larger), np.argsort(first))


def test_nothing_to_learn_and_nothing_at_all() -> None:
    zero = score(Influence(), vectors=np.zeros((3, 2), np.float32)).columns["value"]
    assert zero.tolist() == [0, 0, 0]
    none = score(Influence(), vectors=np.full((3, 2), np.nan, np.float32))
    assert np.isnan(none.columns["value"]).all()
    assert score(Influence(), vectors=np.zeros((0, 2), np.float32)).facts == {"rows": 0}


def test_bad_columns_and_options() -> None:
    x = np.zeros((3, 2), np.float32)
    with pytest.raises(DataError, match="a vector a row"):
        score(Influence(), vectors=np.zeros(3))
    with pytest.raises(DataError, match="two labels or more"):
        score(Influence(labels="topic"), vectors=x, labels=np.array(["a"] * 3, dtype=object))
    with pytest.raises(DataError, match="one label a row"):
        lists = Ragged(np.arange(4), np.zeros(3, dtype=np.int64))
        score(Influence(labels="topic"), vectors=x, labels=lists)
    with pytest.raises(RecipeError, match="damping > 0"):
        Influence(damping=0).check()
    assert Influence().needs() == {"gradient.vector"}
    assert Influence("embed.vector", "family").needs() == {"embed.vector", "family"}
