"""Auto-correct: whose answer is taken, and what is left as it was."""

import numpy as np
import pytest

from tamis.errors import RecipeError
from tamis.recipe import Model
from tamis.refiners import base, clear
from tamis.refiners.base import Written
from tamis.refiners.clear import ClearCorrect, actions


@pytest.fixture
def refiner(lm, monkeypatch):
    """One whose models say what they are told: texts by request, and probabilities by candidate
    (candidate, original, tie), the same in both orders."""

    def make(texts, verdicts, **options):
        told = {**options}
        made = ClearCorrect(lm, lm, "cpu", max_new_tokens=8, **told)

        def write(engine, rows, *, max_new_tokens, advance):
            advance(len(rows))
            return [texts[messages[-1]["content"]] for messages, _ in rows]

        def ask(engine, cases, questions):
            (question,) = questions
            share = []
            for case in cases:
                first, second = case.rest.split("\n\nSecond response:\n")
                first = first.removeprefix("\n\nFirst response:\n")
                names = (first, second.strip())
                text = names[question.meaning[0]]
                share.append([verdicts[text]])
            share = np.array(share, dtype=float).reshape(len(cases), 1, 3)
            mass = np.where(np.isnan(share[..., 0]), 1e-3, 1.0)
            return type("Asked", (), {"answers": clear.Answers(share, mass)})

        monkeypatch.setattr(clear, "write", write)
        monkeypatch.setattr(clear, "ask", ask)
        return made

    return make


def test_a_clearly_better_candidate_is_taken(refiner, row):
    done = []
    texts = {q: Written(f"new {q}", True) for q in "abc"}
    verdicts = {"new a": [0.9, 0.05, 0.05], "new b": [0.8, 0.1, 0.1], "new c": [0.1, 0.85, 0.05]}
    rows = [row(q, f"old {q}") for q in "abc"]
    a, b, c = refiner(texts, verdicts).refine(rows, advance=done.append)
    assert (a.action, a.after, a.before, a.candidate) == ("correct", "new a", "old a", "new a")
    assert a.messages == [rows[0].messages[0], {"role": "assistant", "content": "new a"}]
    assert a.confidences == pytest.approx({"p_candidate": 0.9, "p_original": 0.05, "p_tie": 0.05})
    # 0.8 is not above eta = 0.8; the original may win.
    assert (b.action, b.reason, b.messages) == (None, "not_sure", None)
    assert (c.action, c.reason, c.messages) == (None, "original", None)
    assert sum(done) == 3


def test_a_row_is_believed_among_its_like(refiner):
    values = np.concatenate([np.linspace(0, 1, 20), np.linspace(8, 9, 20)])
    source = np.array(["a"] * 20 + ["b"] * 20, dtype=object)
    made = refiner({}, {}, within=("source",))
    assert made.needs() == {"clear.confidence", "source"}
    given = {"clear.confidence": values, "source": source}
    action, looked = made.standing(given, 40)
    assert (action == "keep").tolist() == ([False] * 10 + [True] * 10) * 2
    assert looked.tolist() == (action == "drop").tolist()


def test_what_is_no_candidate(refiner, row):
    texts = {
        "a": Written("", True),
        "b": Written("half", False),
        "c": None,
        "d": Written("old  d", True),
        "e": Written("unread", True),
    }
    found = refiner(texts, {"unread": [np.nan] * 3}).refine(
        [row(q, f"old {q}") for q in "abcde"], advance=lambda _: None
    )
    reasons = ["candidate_empty", "candidate_cut", "candidate_not_written", "tie", "parse_fail"]
    assert [f.reason for f in found] == reasons
    assert all(f.messages is None and f.action is None for f in found)


def test_rows_without_an_answer_and_later_turns(refiner, row):
    later = {"role": "user", "content": "Thanks."}
    texts = {"a": Written("new", True)}
    first, second = refiner(texts, {"new": [1, 0, 0]}).refine(
        [row("a", ""), row("a", "old", later)], advance=lambda _: None
    )
    assert first.reason == "no_text_answer" and first.messages is None
    assert second.messages[-1] == later and second.messages[1]["content"] == "new"


def test_the_judge_sees_both_orders(lm, row, monkeypatch):
    seen = []
    real = clear.ask

    def spy(engine, cases, questions):
        seen.append((cases[0].rest, questions[0].meaning))
        return real(engine, cases, questions)

    monkeypatch.setattr("tamis.numerics.options.LEAST_MASS", 0.0)
    monkeypatch.setattr(clear, "ask", spy)
    monkeypatch.setattr(
        clear, "write", lambda e, r, *, max_new_tokens, advance: [Written("new", True)]
    )
    (got,) = ClearCorrect(lm, lm, "cpu", max_new_tokens=8).refine(
        [row("a", "old")], advance=lambda _: None
    )
    (first, meaning), (second, exchanged) = seen
    assert first.index("new") < first.index("old") and second.index("old") < second.index("new")
    assert (meaning, exchanged) == ((0, 1, 2), (1, 0, 2))
    assert sum(got.confidences.values()) == pytest.approx(1)


def test_it_runs_with_a_real_model_and_repeats(lm, row):
    rows = [row(f"Question {i}?", f"Answer {i}.") for i in range(4)]
    one = ClearCorrect(lm, lm, "cpu", max_new_tokens=6)
    found = one.refine(rows, advance=lambda _: None)
    assert len(found) == 4
    assert one.refine(rows[2:], advance=lambda _: None) == found[2:]


def test_the_likelihood_of_both_answers_decides(lm, row):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    rows = [row(f"Question {i}?", f"Answer {i}, and so on.") for i in range(4)]
    made = ClearCorrect(lm, lm, "cpu", eta=0.0, verdict="likelihood", max_new_tokens=6)
    written = base.write(
        base.writer(lm, "cpu"), [(r.messages[:1], None) for r in rows], max_new_tokens=6
    )
    with pytest.MonkeyPatch.context() as patch:
        # No stop token ends these answers; taken as they are, they are candidates like any.
        whole = [Written(w.text, True) for w in written]
        patch.setattr(clear, "write", lambda e, r, *, max_new_tokens, advance: whole)
        found = made.refine(rows, advance=lambda _: None)

    tokenizer = AutoTokenizer.from_pretrained(lm.path)
    model = AutoModelForCausalLM.from_pretrained(lm.path).eval()

    def mean(question, answer):
        asked, said = (
            tokenizer(text, add_special_tokens=False)["input_ids"]
            for text in (f"{question}\n\n", answer)
        )
        said = [*said, tokenizer.eos_token_id]
        logits = model(torch.tensor([[*asked, *said]])).logits[0].double().log_softmax(-1)
        at = range(len(asked) - 1, len(asked) + len(said) - 1)
        return float(np.mean([logits[i, t].item() for i, t in zip(at, said, strict=True)]))

    for r, w, got in zip(rows, written, found, strict=True):
        question, answer = (m["content"] for m in r.messages)
        own, given = np.exp(mean(question, w.text)), np.exp(mean(question, answer))
        expected = own / (own + given)
        assert got.confidences["p_candidate"] == pytest.approx(expected, rel=1e-4)
        assert got.confidences["p_original"] == pytest.approx(1 - expected, rel=1e-4)
        assert (got.action == "correct") == (expected > 0.5)


def test_what_the_judge_is_does_not_matter_to_the_likelihood(lm, tiny_lm):
    other = Model(path=str(tiny_lm(seed=9)), prompt_style="plain")
    told = [ClearCorrect(lm, j, "cpu", verdict="likelihood").identity() for j in (lm, other)]
    assert told[0] == told[1]
    letters = [ClearCorrect(lm, j, "cpu").identity() for j in (lm, other)]
    assert letters[0] != letters[1] and letters[0] != told[0]


def test_a_server_has_no_likelihood(lm):
    endpoint = {"url": "http://localhost:1/v1", "model": "m"}
    served = Model.model_validate({"endpoint": endpoint, "prompt_style": "chat"})
    with pytest.raises(RecipeError, match="likelihood needs a model with its weights here"):
        ClearCorrect(served, lm, "cpu", verdict="likelihood").check()


def test_standing_and_scope(lm):
    values = np.array([0.2, 0.9, np.nan, 0.6, 0.7])
    columns = {"clear.confidence": values}
    low = ClearCorrect(lm, lm, "cpu").standing(columns, 5)
    assert low[0].tolist() == ["drop", "keep", "drop", "drop", "keep"]
    assert low[1].tolist() == [True, False, True, True, False]
    assert ClearCorrect(lm, lm, "cpu", scope="all").standing(columns, 5)[1].all()


def test_properties_of_the_actions():
    rng = np.random.default_rng(1)
    believed, candidate, sure = rng.random(200) < 0.5, rng.random(200) < 0.5, rng.random(200)
    low = actions(believed, candidate, sure, 0.5, "low_confidence")
    everything = actions(believed, candidate, sure, 0.5, "all")
    assert ((low == "correct") <= (everything == "correct")).all()
    assert not (actions(believed, candidate, sure, 1.0, "all") == "correct").any()
    nothing = np.full(200, np.nan)
    assert not (actions(believed, candidate, nothing, 0.0, "all") == "correct").any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eta": 1.5}, "eta"),
        ({"max_new_tokens": 4096}, r"4096 tokens, and .* takes 2048"),
        ({"within": ("source",), "threshold": 0.5}, "not a number"),
    ],
)
def test_options_are_checked(lm, options, message):
    with pytest.raises(RecipeError, match=message):
        ClearCorrect(lm, lm, "cpu", **options).check()
