"""The score read from six digit logits: the stored rows, and what must hold of any."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.scoring.digits import expectation


def test_stored_rows(vectors):
    z = np.load(vectors("deita") / "digit_expectation.npz")
    got = expectation(z["logits"][:, z["digit_token_ids"]])
    np.testing.assert_allclose(got, z["expected_score"], atol=1e-6, rtol=0)
    # The softmax is over the digits alone, not the vocabulary; log probabilities do as well.
    wide = z["logits"].astype(float)
    logs = wide - np.logaddexp.reduce(wide, axis=1, keepdims=True)
    np.testing.assert_allclose(expectation(logs[:, z["digit_token_ids"]]), got, atol=1e-6)


rows = st.lists(st.floats(-300, 300), min_size=6, max_size=6)


@settings(max_examples=100)
@given(rows, st.floats(-1e4, 1e4))
def test_lies_between_1_and_6_and_ignores_a_constant(row, shift):
    (score,) = expectation([row])
    assert 1 <= score <= 6
    # float64 keeps differences of shifted logits to about 1e-11.
    assert expectation([[value + shift for value in row]])[0] == pytest.approx(score, abs=1e-8)
    assert expectation([row[::-1]])[0] == pytest.approx(7 - score, abs=1e-9)


def test_known_values():
    assert expectation(np.zeros((1, 6))).tolist() == [3.5]
    one = np.full((6, 6), -1e4) + 2e4 * np.eye(6)
    assert expectation(one).tolist() == [1, 2, 3, 4, 5, 6]
    half = np.log([[0.5, 1e-30, 1e-30, 1e-30, 1e-30, 0.5]])
    assert expectation(half)[0] == pytest.approx(3.5)
    assert expectation(np.log([[1, 1, 2, 1e-30, 1e-30, 1e-30]]))[0] == pytest.approx(9 / 4)


def test_a_missing_digit_is_no_score():
    logits = np.zeros((3, 6))
    logits[1, 4], logits[2, 0] = np.nan, -np.inf
    assert np.isnan(expectation(logits)).tolist() == [False, True, True]
    assert expectation(np.empty((0, 6))).tolist() == []
    for wrong in (np.zeros(6), np.zeros((2, 5))):
        with pytest.raises(ValueError, match=r"\(n, 6\)"):
            expectation(wrong)
