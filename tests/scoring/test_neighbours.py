"""Like questions with unlike answers are seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tamis.errors import RecipeError
from tamis.scoring import registry
from tamis.scoring.base import Rows


@pytest.fixture
def rows(
    batch: Callable[..., pa.RecordBatch], pair: Callable[[str, str], list[dict[str, Any]]]
) -> Callable[..., Rows]:
    def make(answers: list[str], **columns: np.ndarray) -> Rows:
        made = batch([pair(f"q{i}", a) for i, a in enumerate(answers)])
        return Rows(len(answers), columns, lambda: iter([(np.arange(len(answers)), made)]))

    return make


def score(given: Rows, **options: Any) -> dict[str, np.ndarray]:
    scorer = registry.build("neighbours", model=None, options=options, device="cpu")
    return dict(scorer.score_pool(given, advance=lambda n: None).columns)


def by_hand(q: np.ndarray, a: np.ndarray, answers: list[str], count: int) -> np.ndarray:
    """The definition, a row at a time."""
    q, a = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (q, a))
    found = []
    for i in range(len(q)):
        cosine = q @ q[i]
        cosine[i] = -np.inf
        near = np.argsort(-np.round(cosine, 9), kind="stable")[:count]
        w = np.maximum(cosine[near], 0)
        equal = np.array([answers[j].strip().lower() == answers[i].strip().lower() for j in near])
        values = [(w * equal).sum() / w.sum(), (w * (a[near] @ a[i])).sum() / w.sum()]
        found.append([*values, w.mean()])
    return np.array(found)


@pytest.mark.parametrize("count", [1, 4, 50])
def test_the_definition(rows: Any, count: int) -> None:
    rng = np.random.default_rng(0)
    q = (rng.normal(size=(40, 6)) + 1).astype(np.float32)
    a = rng.normal(size=(40, 5)).astype(np.float32)
    answers = [["yes", " Yes", "no"][i % 3] for i in range(40)]
    given = rows(answers, **{"embed.vector": q, "a.vector": a})
    found = score(given, answers="a.vector", count=count)
    expected = by_hand(q.astype(np.float64), a.astype(np.float64), answers, min(count, 39))
    for i, name in enumerate(("same", "agreement", "cosine")):
        assert np.allclose(found[name], expected[:, i], atol=1e-5)
    assert set(found["reason"]) == {None}


def test_an_answer_that_its_surroundings_contradict_is_lowest(rows: Any) -> None:
    rng = np.random.default_rng(1)
    q = np.repeat(np.eye(2, 8), 20, axis=0) + 0.05 * rng.normal(size=(40, 8))
    answers = ["left"] * 20 + ["right"] * 20
    answers[7] = "right"
    found = score(rows(answers, **{"embed.vector": q.astype(np.float32)}), count=5)
    assert found["same"].argmin() == 7 and found["same"][7] == 0
    assert np.isnan(found["agreement"]).all()


def test_rows_without_a_vector_and_a_row_alone(rows: Any) -> None:
    q = np.array([[1, 0], [np.nan, 0], [0, 0], [1, 0], [-1, 0]], np.float32)
    found = score(rows(["a"] * 5, **{"embed.vector": q}), count=2)
    assert found["reason"].tolist() == [None, "no_vector", "no_vector", None, "no_neighbour"]
    assert found["same"][[0, 3]].tolist() == [1.0, 1.0] and np.isnan(found["same"][[1, 2, 4]]).all()
    alone = score(rows(["a"], **{"embed.vector": q[:1]}))
    assert alone["reason"].tolist() == ["no_neighbour"]


def test_count_must_be_positive() -> None:
    with pytest.raises(RecipeError, match="count must be 1 or more"):
        registry.build("neighbours", model=None, options={"count": 0}, device="cpu")
