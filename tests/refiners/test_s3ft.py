"""S3FT: the model's own right answer, else its paraphrase, else gold."""

import numpy as np
import pytest

from tamis.errors import RecipeError
from tamis.refiners import s3ft
from tamis.refiners.base import Written
from tamis.refiners.checkers import contains, exact, numeric
from tamis.refiners.s3ft import S3ft


@pytest.fixture
def refiner(lm, monkeypatch):
    """One whose model answers `own` and, shown the reference, `guided`; texts by request."""

    def make(own, guided, **options):
        def write(engine, rows, *, max_new_tokens, advance):
            advance(len(rows))
            texts = []
            for messages, _ in rows:
                asked, _, reference = messages[-1]["content"].partition("\n\nHere is a reference")
                text = (guided if reference else own)[asked]
                texts.append(Written(text, True) if isinstance(text, str) else text)
            return texts

        monkeypatch.setattr(s3ft, "write", write)
        return S3ft(lm, lm, "cpu", max_new_tokens=8, **options)

    return make


def refine(refiner, rows):
    done = []
    found = refiner.refine(rows, advance=done.append)
    assert sum(done) == len(rows)
    return found


def test_each_source_in_turn(refiner, row):
    own = {"a": "It is 4.", "b": "It is 5.", "c": "It is 6.", "d": "12"}
    guided = {"b": "You get 4.", "c": "Seven."}
    rows = [row("a", "4"), row("b", "4"), row("c", "4"), row("d", "12")]
    a, b, c, d = refine(refiner(own, guided, checkers=("numeric",)), rows)
    assert [f.action for f in (a, b, c, d)] == ["model", "paraphrase", "gold", "model"]
    assert (a.after, b.after, c.after) == ("It is 4.", "You get 4.", None)
    assert c.messages is None and c.candidate == "Seven."
    # The same text as gold needs no change.
    assert d.messages is None
    assert b.messages[-1]["content"] == "You get 4." and b.before == "4"
    judged = [(f.confidences["judge_model"], f.confidences["judge_paraphrase"]) for f in (a, b, c)]
    assert judged == [("yes", "skipped"), ("no", "yes"), ("no", "no")]
    assert a.confidences["logprob_before"] < 0 and a.confidences["logprob_after"] < 0


def test_what_is_refused_without_a_verdict(refiner, row):
    own = {"a": "", "b": Written("It is just 4.", False), "c": None, "d": "4"}
    guided = {q: "The reference answer says 4." for q in "abcd"}
    rows = [row(q, "It is 4.") for q in "abcd"]
    found = refine(refiner(own, guided, checkers=("numeric",), form="4[.]$"), rows)
    assert [f.action for f in found] == ["gold"] * 4
    verdicts = [f.confidences["judge_model"] for f in found]
    assert verdicts == ["empty", "no", "skipped", "no"]


def test_gold_stays_where_nobody_judges(refiner, row):
    own, guided = {"a": "Nobody knows."}, {"a": "No idea."}
    (found,) = refine(refiner(own, guided, checkers=("exact",)), [row("a", "Blue.")])
    assert found.action == "gold" and found.messages is None
    assert refine(refiner({}, {}), [row("a", "")])[0].reason == "no_text_answer"


@pytest.mark.parametrize(("share", "tau", "verdict"), [(0.8, 0.5, "yes"), (0.8, 0.9, "no")])
def test_the_model_as_judge(refiner, row, monkeypatch, share, tau, verdict):
    def ask(engine, cases, questions):
        shares = np.full((len(cases), 2, 3), [0.5 * share, 0.5 * (1 - share), 0.5])
        return type("Asked", (), {"answers": s3ft_answers(shares, np.ones((len(cases), 2)))})

    monkeypatch.setattr(s3ft, "ask", ask)
    own = guided = {"a": "Azure."}
    (found,) = refine(refiner(own, guided, tau=tau), [row("a", "Blue.")])
    assert found.confidences["judge_model"] == verdict
    assert found.action == {"yes": "model", "no": "gold"}[verdict]


def test_a_verdict_that_cannot_be_read_is_an_error(refiner, row, monkeypatch):
    def ask(engine, cases, questions):
        shares = np.full((len(cases), 2, 3), np.nan)
        return type("Asked", (), {"answers": s3ft_answers(shares, np.full((len(cases), 2), 1e-4))})

    monkeypatch.setattr(s3ft, "ask", ask)
    own = guided = {"a": "Azure."}
    (found,) = refine(refiner(own, guided), [row("a", "Blue.")])
    assert found.action == "gold" and found.confidences["judge_model"] == "error"


def s3ft_answers(share, mass):
    from tamis.numerics.options import Answers

    return Answers(share, mass)


def test_it_runs_with_a_real_model_and_repeats(lm, row, monkeypatch):
    monkeypatch.setattr("tamis.numerics.options.LEAST_MASS", 0.0)
    one = S3ft(lm, lm, "cpu", max_new_tokens=6)
    rows = [row(f"Question {i}?", f"Answer {i}.") for i in range(3)]
    found = refine(one, rows)
    assert {f.action for f in found} <= {"model", "paraphrase", "gold"}
    assert [f.action for f in refine(one, rows)] == [f.action for f in found]


@pytest.mark.parametrize(
    ("text", "gold", "verdict"),
    [
        ("1,234", "1234", "yes"),
        ("$5.00", "5", "yes"),
        ("-3", "3", "no"),
        ("50%", "0.5", "no"),
        ("no number", "7", "no"),
        ("7", "no number", None),
        ("from 2-4", "4", "yes"),
        ("#### 12 apples of 90", "Of 3 then #### 90", "yes"),
        ("The answer is 8. I had 3 tries.", "8", "no"),
        ("Work: 3, 4. The answer is: 12", "####12", "yes"),
        ("-$5", "-5", "yes"),
        (".5", "0.5", "yes"),
        ("1000000.5", "1000001", "yes"),
    ],
)
def test_numbers(text, gold, verdict):
    assert numeric(text, gold) == verdict


def test_texts():
    assert exact("The  Eiffel Tower!", "eiffel tower") == "yes"
    assert exact("Eiffel", "eiffel tower") is None
    assert contains("It is the Eiffel Tower, in Paris.", "Eiffel tower") == "yes"
    assert contains("It is 12.", "2") == "no"
    assert contains("Anything", "...") is None


@pytest.mark.parametrize(
    ("options", "message"),
    [({"tau": 1.0}, "tau"), ({"form": "("}, "regular"), ({"max_new_tokens": 0}, "up to 0 tokens")],
)
def test_options_are_checked(lm, options, message):
    with pytest.raises(RecipeError, match=message):
        S3ft(lm, lm, "cpu", **options).check()
