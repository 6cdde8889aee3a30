"""The decisions of both refiners, as stored."""

import json
from collections import Counter

import numpy as np
import pytest

from tamis.refiners.clear import actions
from tamis.refiners.s3ft import chosen


@pytest.fixture
def stored(vectors):
    return lambda name: json.loads((vectors("clear") / f"{name}.json").read_text())


def test_keep_correct_or_drop(stored):
    given = stored("decisions")
    preferred = np.array(given["preferred"], dtype=object)
    sure = np.array(given["preference_confidence"], dtype=float)
    believed = np.array(given["confidence"], dtype=float) > given["gamma_median"]
    assert given["expected"]
    for case in given["expected"]:
        got = actions(believed, preferred == "candidate", sure, given["eta"], case["scope"])
        assert got.tolist() == case["actions"]
        assert Counter(got.tolist()) == case["counts"]


def test_whose_answer_is_taken(stored):
    given = stored("s3ft_decisions")
    got = [chosen(r["judge_model_response"], r["judge_paraphrase"]) for r in given["rows"]]
    assert got == [r["expected_source"] for r in given["rows"]]
    assert Counter(got) == given["counts"]
