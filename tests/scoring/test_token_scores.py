"""Adapt-infinity's scores from given logits, against vectors of its functions."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tamis.errors import DataError
from tamis.scoring.token_scores import from_logits


def test_vectors(vectors: Callable[[str], Path]) -> None:
    case = np.load(vectors("adapt_inf") / "token_scores.npz")
    names = sorted(key.removesuffix("_logits") for key in case.files if key.endswith("_logits"))
    assert names
    for name in names:
        logits, labels = case[f"{name}_logits"], case[f"{name}_labels"]
        ours, theirs = from_logits(logits, labels), from_logits(logits, labels, official=True)
        for found, expected in [
            (ours["ppl"], "paper_ppl"),
            (ours["el2n"], "el2n"),
            (ours["entropy"], "entropy_label_positions"),
            (theirs["ppl"], "official_ppl"),
            (theirs["el2n"], "el2n"),
            (theirs["entropy"], "entropy_all_positions"),
        ]:
            wanted = float(case[f"{name}_{expected}"])
            assert found == pytest.approx(wanted, rel=1e-4, nan_ok=True), (name, expected)


def test_shapes_must_fit() -> None:
    with pytest.raises(DataError, match="labels of shape"):
        from_logits(np.zeros((3, 4)), np.zeros(2, dtype=int))
