"""The contrast of two models, and the split of a budget over abilities: stored cases."""

from __future__ import annotations

import json

import numpy as np

from tamis.numerics.allocate import allocate
from tamis.numerics.contrast import sequence_scores, token_scores
from tamis.numerics.ragged import Ragged


def softmax(scores):
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def same(found, stored, plausible):
    assert (np.isfinite(found) == plausible).all()
    np.testing.assert_allclose(found[plausible], stored[plausible], atol=1e-5)


def test_stored_steps(vectors):
    paths = sorted(vectors("signals").glob("contrastive_step*.npz"))
    assert paths
    for path in paths:
        z = np.load(path)
        ft, base = z["logits_ft"], z["logits_base"]
        found = token_scores(ft, base, alpha=float(z["alpha"]), gamma=float(z["gamma"]))
        same(found, z["score"], z["plausible"])
        assert (found.argmax(axis=1) == z["argmax"]).all()
        np.testing.assert_allclose(softmax(found), z["sample_prob"], atol=1e-5)
        half = token_scores(ft, base, alpha=0.5, gamma=0.5)
        same(half, z["score_alpha05_gamma05"], z["plausible_alpha05"])


def test_the_best_token_stays_and_a_constant_changes_nothing():
    rng = np.random.default_rng(0)
    ft, base = rng.normal(size=(2, 20, 30)) * 5
    for alpha in (0.0, 0.3, 1.0):
        found = token_scores(ft, base, alpha=alpha)
        assert np.isfinite(found[np.arange(20), ft.argmax(axis=1)]).all()
        again = token_scores(ft + 7, base - 3, alpha=alpha)
        np.testing.assert_allclose(found, again, atol=1e-12)
    assert np.isfinite(token_scores(ft, base, alpha=0.0)).all()
    # Equality with the floor stays.
    assert np.isfinite(token_scores(np.zeros((1, 4)), np.zeros((1, 4)), alpha=1.0)).all()


def test_stored_sequences(vectors):
    paths = sorted(vectors("signals").glob("contrastive_sequence*.npz"))
    assert paths
    for path in paths:
        z = np.load(path)
        mask = np.arange(z["logp_ft"].shape[1]) < z["length"][:, None]
        indptr = np.concatenate([[0], np.cumsum(z["length"])]).astype(np.int64)
        mean, total = sequence_scores(
            Ragged(indptr, z["logp_ft"][mask]), Ragged(indptr, z["logp_base"][mask])
        )
        np.testing.assert_allclose(mean, z["score_mean"], atol=1e-9)
        np.testing.assert_allclose(total, z["score_sum"], atol=1e-9)
        assert np.argsort(-mean, kind="stable").tolist() == z["rank_desc"].tolist()


def test_a_text_without_tokens_has_no_score():
    empty = Ragged(np.array([0, 0, 1]), np.array([-1.0]))
    mean, total = sequence_scores(empty, empty)
    assert np.isnan(mean[0]) and np.isnan(total[0]) and mean[1] == total[1] == 0


def test_stored_ability_budgets(vectors):
    """Fixed abilities get what is fixed, the others equal parts of the rest."""
    paths = sorted(vectors("signals").glob("ability_budget*.json"))
    assert paths
    for path in paths:
        for case in json.loads(path.read_text(encoding="utf-8")):
            names = list(case["available"])
            held = list(case["available"].values())
            floors = [case["fixed"].get(name, 0) for name in names]
            caps = [case["fixed"].get(name, size) for name, size in case["available"].items()]
            given = allocate(held, case["total"], np.ones(len(held)), floors, caps)
            assert dict(zip(names, given.tolist(), strict=True)) == case["expected"]
