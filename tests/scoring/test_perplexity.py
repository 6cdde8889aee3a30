"""Perplexity from the logits of padded batches, against vectors."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tamis.errors import DataError
from tamis.language.network import Part, token_parts
from tamis.scoring.perplexity import bits_per_byte, from_logits


def test_vectors(vectors: Callable[[str], Path]) -> None:
    case = np.load(vectors("signals") / "perplexity.npz")
    ids, attention, response = (case[n] for n in ("input_ids", "attention_mask", "response_mask"))
    found = from_logits(case["logits"], ids, attention, response)
    assert found["tokens"].tolist() == case["n_tokens"].tolist()
    np.testing.assert_allclose(found["sum"], case["nll_sum"], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found["mean"], case["nll_mean"], rtol=1e-9)
    np.testing.assert_allclose(found["ppl"], case["ppl"], rtol=1e-9)
    full = from_logits(case["logits"], ids, attention, attention)
    np.testing.assert_allclose(full["ppl"], case["ppl_full_sequence"], rtol=1e-9)


def test_vectors_through_the_engine_s_reduction(vectors: Callable[[str], Path]) -> None:
    """The float32 log-softmax that the engine applies to chunks of logits."""
    case = np.load(vectors("signals") / "perplexity.npz")
    attention = case["attention_mask"] > 0
    counts = (case["response_mask"][:, 1:] > 0) & attention[:, 1:] & attention[:, :-1]
    row, before = np.nonzero(counts)
    logits = torch.from_numpy(case["logits"][row, before])
    tokens = torch.from_numpy(case["input_ids"][row, before + 1].astype(np.int64))
    found = token_parts(logits, tokens, frozenset({"logprob", "entropy", "el2n"}))

    def total(part: Part) -> np.ndarray:
        return np.bincount(row, weights=found[part].double().numpy(), minlength=len(counts))

    some = case["n_tokens"] > 0
    np.testing.assert_allclose(-total("logprob"), np.abs(case["nll_sum"]), rtol=2e-4)
    for part, name in (("entropy", "entropy_mean"), ("el2n", "el2n_token_mean")):
        means = total(part)[some] / case["n_tokens"][some]
        np.testing.assert_allclose(means, case[name][some], rtol=2e-4)


def test_the_lowest_are_kept(vectors: Callable[[str], Path]) -> None:
    """POINTS keeps the given share of rows that have a value, the lowest first."""
    case = np.load(vectors("signals") / "perplexity.npz")
    masks = (case[n] for n in ("input_ids", "attention_mask", "response_mask"))
    ppl = from_logits(case["logits"], *masks)["ppl"]
    kept = int(float(case["keep_lowest_ratio"]) * np.isfinite(ppl).sum())
    assert np.argsort(ppl, kind="stable")[:kept].tolist() == case["keep_lowest_idx"].tolist()


def test_bits_per_byte() -> None:
    found = bits_per_byte(np.array([np.log(2.0) * 8, 1.0, np.nan]), np.array([4, 0, 3]))
    assert found[0] == pytest.approx(2.0)
    assert np.isnan(found[1:]).all()


def test_shapes_must_fit() -> None:
    ids = np.zeros((2, 3), dtype=int)
    with pytest.raises(DataError, match="expect ids and masks"):
        from_logits(np.zeros((2, 4, 5)), ids, ids, ids)
