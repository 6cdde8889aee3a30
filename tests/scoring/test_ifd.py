"""IFD from given log-probabilities, against vectors of the official function."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.scoring.ifd import from_logprobs, ratios

NLL = st.floats(1e-3, 30)


def test_vectors(vectors: Callable[[str], Path]) -> None:
    folder = vectors("codeact")
    rows = json.loads((folder / "ifd.json").read_text())["rows"]
    logprobs = np.load(folder / "ifd_logprobs.npz")
    assert rows
    for row in rows:
        i = row["i"]
        cond, alone = logprobs[f"cond_lp_{i}"], logprobs[f"alone_lp_{i}"]
        found = from_logprobs(cond, alone, row["end_index"])
        names = {
            "nll_cond": "cond_mean_nll",
            "nll_alone": "alone_mean_nll",
            "ppl_ratio": "ifd_ppl_ratio",
            "loss_ratio": "ifd_loss_ratio",
        }
        for ours, theirs in names.items():
            expected = row.get(theirs)
            if expected is None:
                assert np.isnan(found[ours]), (i, ours)
            else:
                assert found[ours] == pytest.approx(expected, abs=1e-9, rel=1e-9), (i, ours)
        official = from_logprobs(cond, alone, row["end_index"], compat=True)["ppl_ratio"]
        assert official == pytest.approx(row["official_ifd"], rel=1e-5, abs=0)


@given(st.lists(st.tuples(NLL, NLL), min_size=1, max_size=20))
def test_the_variants_agree_on_the_side_of_one(pairs: list[tuple[float, float]]) -> None:
    cond, alone = np.array(pairs).T
    found = ratios(cond, alone)
    assert ((found["log_ratio"] < 0) == (cond < alone)).all()
    for name in ("loss_ratio", "ppl_ratio"):
        # Next to 1 a quotient may round to it.
        apart = np.abs(cond - alone) > 1e-9
        assert ((found[name] < 1) == (cond < alone))[apart].all()
    np.testing.assert_allclose(found["ppl_ratio"], np.exp(cond) / np.exp(alone), rtol=1e-9)


def test_no_loss_alone_leaves_the_quotient_undefined() -> None:
    found = ratios(np.array([1.0, np.nan]), np.array([0.0, 2.0]))
    assert np.isnan(found["loss_ratio"]).all()
    assert np.isnan(ratios(np.array([np.nan]), np.array([2.0]))["ppl_ratio"]).all()
    assert ratios(np.array([np.nan]), np.array([2.0]), compat=True)["ppl_ratio"].tolist() == [0.0]
