"""Every stored field of the vectors: similarities, reflection, confidence, the median rule."""

import json

import numpy as np
import pytest

from tamis.numerics.above import above
from tamis.numerics.options import answers
from tamis.scoring.clear import similarity
from tamis.scoring.clear.confidence import confidence, consistency, mean_of_known, mixed

LETTERS = {"A": 1.0, "B": 0.0, "C": 0.5, "X": np.nan}
VALUES = (1.0, 0.0, 0.5)
KINDS = {
    "confidence_nli",
    "decisions",
    "self_reflection_logits",
    "similarity_embedding",
    "similarity_jaccard",
    "target_logprob",
    "tlm_weighted_total",
    "s3ft_decisions",
}


def same(got, expected, tolerance=1e-9):
    expected = np.array([np.nan if v is None else v for v in np.ravel(expected)], dtype=float)
    np.testing.assert_allclose(np.ravel(got), expected, atol=tolerance, rtol=0)


def test_every_file_is_read(vectors):
    assert {p.stem for p in vectors("clear").glob("*") if p.suffix != ".md"} == KINDS


def test_confidence_with_an_nli_model(vectors):
    cases = json.loads((vectors("clear") / "confidence_nli.json").read_text())["cases"]
    assert cases
    for case in cases:
        wanted = case["expected"]
        if "edge" in case:
            s, r = np.array(case["sims"], dtype=float), np.array(case["r"], dtype=bool)
            values = [np.nan if v is None else v for v in case["refl"]]
        else:
            r = np.array([similarity.same(case["target"], a) for a in case["samples"]])
            assert r.astype(float).tolist() == wanted["indicator"]
            both = [np.array(case[f"nli_{way}"])[:, 0] for way in ("forward", "backward")]
            s = np.where(r, 1.0, similarity.entailed(*both))
            same(s, wanted["similarity"])
            values = [LETTERS[letter] for letter in case["reflection_letters"]]
            same(values, wanted["reflection_values"])
        o = consistency(s[None, :], r[None, :], case["alpha"])
        each = [
            consistency(s[None, i : i + 1], r[None, i : i + 1], case["alpha"])
            for i in range(len(s))
        ]
        same(each, wanted["o"])
        reflected = mean_of_known(np.array([values], dtype=float))
        same(o, [wanted["O"]])
        same(reflected, [wanted["S"]])
        same(confidence(o, reflected, case["beta"]), [wanted["C"]])


def test_reflection_from_logits(vectors):
    z = np.load(vectors("clear") / "self_reflection_logits.npz")
    wide = z["logits"].astype(float)
    logs = wide - np.logaddexp.reduce(wide, axis=-1, keepdims=True)
    ids = [z[f"ids_{letter}"] for letter in "ABC"]
    found = answers(logs[..., np.concatenate(ids)], [len(i) for i in ids])
    same(found.mass, z["option_mass"])
    valid = z["valid"]
    assert (found.read == valid).all()
    same(found.share[valid], z["q"][valid])
    same(found.share[valid] * found.mass[valid][:, None], z["option_prob"][valid])
    for values, each, mean in (
        (found.soft(VALUES), z["soft_score"], z["S_soft"]),
        (found.hard(VALUES), z["hard_score"], z["S_hard"]),
    ):
        same(values[valid], each[valid])
        assert np.isnan(values[~valid]).all()
        same(mean_of_known(values), mean)


def test_similarity_of_embeddings(vectors):
    z = np.load(vectors("clear") / "similarity_embedding.npz")
    got = similarity.cosine(z["target_emb"][:, None], z["sample_emb"])
    same(got, z["sim_clip01"])
    same(got.mean(axis=1), z["mean_clip01"])


def test_similarity_of_words(vectors):
    for pair in json.loads((vectors("clear") / "similarity_jaccard.json").read_text())["pairs"]:
        assert similarity.jaccard(pair["a"], pair["b"]) == pytest.approx(pair["jaccard"], abs=1e-12)


def test_probability_of_the_answer(vectors):
    z = np.load(vectors("clear") / "target_logprob.npz")
    counted = np.arange(z["token_logprob"].shape[1]) < z["length"][:, None]
    total = np.where(counted, z["token_logprob"], 0).sum(axis=1)
    same(total, z["sum_logprob"])
    same(similarity.probability(total, z["length"]), z["geo_mean_prob"])


def test_weighted_parts(vectors):
    stored = json.loads((vectors("clear") / "tlm_weighted_total.json").read_text())
    names = ["consistency", "indicator", "self_reflection", "perplexity"]
    weights = np.array([stored["weights"][name] for name in names])
    parts = np.array([[row[name] for name in names] for row in stored["rows"]], dtype=float)
    same(mixed(parts, weights), [row["total"] for row in stored["rows"]])


def test_the_median_rule(vectors):
    stored = json.loads((vectors("clear") / "decisions.json").read_text())
    values = np.array(stored["confidence"], dtype=float)
    kept = above(values, "median", "drop")
    assert kept.threshold[0] == pytest.approx(stored["gamma_median"], abs=1e-12)
    assert kept.keep.tolist() == stored["filter_only_keep"]
