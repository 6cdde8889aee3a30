"""Scores of labels by logits, against vectors and a literal definition."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.errors import DataError
from tamis.numerics.logits import label_scores


def test_el2n_vectors(vectors: Callable[[str], Path]) -> None:
    case = np.load(vectors("signals") / "el2n.npz")
    logits = case["logits"]
    found = label_scores(logits, np.broadcast_to(case["labels"], logits.shape[:-1]))
    np.testing.assert_allclose(found.el2n, case["per_run"], rtol=1e-9)
    score = found.el2n.mean(axis=0)
    np.testing.assert_allclose(score, case["score"], rtol=1e-9)
    np.testing.assert_allclose(found.el1n.mean(axis=0), case["l1"], rtol=1e-9)
    # What is kept by it: the largest half, or the lowest after leaving a tenth out.
    rank = np.argsort(score, kind="stable")
    half = len(case["keep_max_50pct"])
    assert sorted(rank[len(rank) - half :].tolist()) == case["keep_max_50pct"].tolist()
    skip, band = len(rank) // 10, len(case["offset10pct_then_keep40pct"])
    assert sorted(rank[skip : skip + band].tolist()) == case["offset10pct_then_keep40pct"].tolist()


def test_perplexity_vectors(vectors: Callable[[str], Path]) -> None:
    """EL2N and entropy of the answer tokens of padded batches."""
    case = np.load(vectors("signals") / "perplexity.npz")
    attended = case["attention_mask"] > 0
    counts = (case["response_mask"][:, 1:] > 0) & attended[:, 1:] & attended[:, :-1]
    for i, counted in enumerate(counts):
        before = np.flatnonzero(counted)
        if not len(before):
            assert np.isnan(case["el2n_token_mean"][i])
            continue
        found = label_scores(case["logits"][i, before], case["input_ids"][i, before + 1])
        assert found.el2n.mean() == pytest.approx(case["el2n_token_mean"][i], rel=1e-9)
        assert found.entropy.mean() == pytest.approx(case["entropy_mean"][i], rel=1e-9)
        assert -found.logprob.sum() == pytest.approx(case["nll_sum"][i], rel=1e-9)


def test_perfect_wrong_and_uniform() -> None:
    logits = np.array([[1000.0, 0, 0, 0], [0, 0, 0, 1000.0], [3.0, 3, 3, 3]])
    found = label_scores(logits, np.zeros(3, dtype=int))
    np.testing.assert_allclose(found.el2n, [0, np.sqrt(2), np.sqrt(1 - 1 / 4)], atol=1e-12)
    np.testing.assert_allclose(found.el1n, [0, 2, 1.5], atol=1e-12)
    np.testing.assert_allclose(found.entropy, [0, 0, np.log(4)], atol=1e-12)
    impossible = label_scores(np.array([[-np.inf, 1.0, 1.0]]), np.array([1]))
    assert impossible.entropy[0] == pytest.approx(np.log(2))


@given(
    st.lists(st.lists(st.floats(-30, 30), min_size=3, max_size=3), min_size=1, max_size=8),
    st.floats(-100, 100),
)
def test_equals_the_definition_and_ignores_a_constant(rows: list[list[float]], by: float) -> None:
    logits = np.array(rows)
    labels = np.arange(len(rows)) % 3
    found = label_scores(logits, labels)
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    error = p - np.eye(3)[labels]
    np.testing.assert_allclose(found.el2n, np.linalg.norm(error, axis=1), atol=1e-7)
    np.testing.assert_allclose(found.el1n, np.abs(error).sum(axis=1), atol=1e-7)
    np.testing.assert_allclose(found.entropy, -(p * np.log(p)).sum(axis=1), atol=1e-9)
    for values, moved in zip(found, label_scores(logits + by, labels), strict=True):
        np.testing.assert_allclose(moved, values, rtol=1e-6, atol=1e-9)


def test_shapes_and_labels_are_checked() -> None:
    with pytest.raises(DataError, match="expect labels"):
        label_scores(np.zeros((2, 3)), np.zeros(3, dtype=int))
    with pytest.raises(DataError, match=r"0\.\.2"):
        label_scores(np.zeros((1, 3)), np.array([3]))
