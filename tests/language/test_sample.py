"""Sampled answers and options after a shared prefix: the same whatever the batch."""

from collections import Counter

import numpy as np
import pytest

from tamis.language.forward import Engine, Pass
from tamis.language.load import load_model
from tamis.language.network import WholeNetwork
from tamis.language.next_token import after_suffixes
from tamis.language.sample import sample
from tamis.recipe import Model


@pytest.fixture(scope="module")
def engine(tiny_lm):
    return Engine(Model(path=str(tiny_lm(seed=3)), prompt_style="plain"), "cpu")


def drawn(engine, prompts, names, count=3, **given):
    options = {"stops": [0], "max_new_tokens": 12, "temperature": 1.0, "top_p": 1.0, "seed": 0}
    return sample(engine, prompts, names, count=count, advance=lambda _: None, **options | given)


PROMPTS = [[*(9, 20, 31, 42, 53)[:n], 60 + n] for n in (1, 4, 2, 5, 3)]
NAMES = list("abcde")


@pytest.mark.parametrize("stops", [[0], list(range(0, 262, 8))])
def test_answers_do_not_depend_on_the_batch(engine, stops):
    given = {"stops": stops}
    together = drawn(engine, PROMPTS, NAMES, **given)
    alone = [drawn(engine, [p], [n], **given)[0] for p, n in zip(PROMPTS, NAMES, strict=True)]
    assert together == alone
    fewer = drawn(engine, PROMPTS[::-1], NAMES[::-1], count=2, **given)[::-1]
    assert fewer == [answers[:2] for answers in together]


def test_answers_differ_by_number_name_and_seed(engine):
    (first,) = drawn(engine, PROMPTS[:1], ["a"], count=5)
    assert len({tuple(answer.ids) for answer in first}) == 5
    assert drawn(engine, PROMPTS[:1], ["b"], count=5) != [first]
    assert drawn(engine, PROMPTS[:1], ["a"], count=5, seed=1) != [first]
    assert drawn(engine, PROMPTS[:1], ["a"], count=5) == [first]


def next_tokens(engine, prompt):
    import torch

    with torch.inference_mode():
        logits = engine.network.head(
            engine.network.backbone(torch.tensor([prompt])).last_hidden_state
        )[0, -1]
        return torch.softmax(logits.double(), dim=-1).numpy()


def test_tokens_come_as_often_as_they_are_probable(engine):
    p = next_tokens(engine, PROMPTS[1])
    n = 1500
    answers = drawn(engine, [PROMPTS[1]], ["a"], count=n, max_new_tokens=1)[0]
    counts = Counter(a.ids[0] if a.ids else 0 for a in answers)
    seen = np.array([counts[t] for t in range(len(p))]) / n
    # Five standard errors of every share.
    assert (np.abs(seen - p) < 5 * np.sqrt(p / n) + 5 / n).all()


def test_top_p_keeps_the_fewest_tokens_that_hold_it(engine):
    p = next_tokens(engine, PROMPTS[1])
    order = np.argsort(-p, kind="stable")
    held = float(p[order[0]] + p[order[1]] / 2)
    answers = drawn(engine, [PROMPTS[1]], ["a"], count=600, max_new_tokens=1, top_p=held)[0]
    assert {a.ids[0] if a.ids else 0 for a in answers} == set(order[:2].tolist())
    cold = drawn(engine, [PROMPTS[1]], ["a"], count=5, max_new_tokens=1, temperature=1e-3)[0]
    assert {a.ids[0] if a.ids else 0 for a in cold} == {int(order[0])}


def test_an_answer_ends_at_a_stop_or_is_marked_cut(engine):
    answers = drawn(engine, PROMPTS, NAMES, stops=list(range(0, 262, 4)), max_new_tokens=6)
    kinds = {answer.ended for row in answers for answer in row}
    assert kinds == {True, False}
    for answer in (a for row in answers for a in row):
        assert not any(token % 4 == 0 for token in answer.ids)
        assert answer.ended or len(answer.ids) == 6


@pytest.mark.parametrize("budget", [1, 20, 4096])
def test_tokens_after_shared_prefixes_are_those_of_whole_passes(engine, budget):
    small = Engine(engine.model, "cpu", budget=budget)
    suffixes, tokens = [[70, 71, 72], [80]], [[5, 90], [100, 101, 102]]
    got = after_suffixes(small, PROMPTS, suffixes, tokens)
    for values, suffix, wanted in zip(got, suffixes, tokens, strict=True):
        for row, prompt in zip(values, PROMPTS, strict=True):
            ids = [*prompt, *suffix]
            each = [Pass([*ids, t], np.array([len(ids)])) for t in wanted]
            np.testing.assert_allclose(row, np.concatenate(engine.logprobs(each)), atol=1e-5)


def test_no_prompts(engine):
    assert drawn(engine, [], []) == []
    assert [v.shape for v in after_suffixes(engine, [], [[1], [2]], [[3], [4, 5]])] == [
        (0, 1),
        (0, 2),
    ]


def test_a_model_that_hides_its_backbone_gives_the_same(engine):
    whole = Engine(engine.model, "cpu")
    whole.network = WholeNetwork(load_model(engine.model, "cpu"))
    assert drawn(whole, PROMPTS, NAMES) == drawn(engine, PROMPTS, NAMES)
    args = (PROMPTS, [[70, 71], [80]], [[5], [6, 7]])
    for got, expected in zip(
        after_suffixes(whole, *args), after_suffixes(engine, *args), strict=True
    ):
        np.testing.assert_allclose(got, expected, atol=1e-5)


def test_temperature_0_takes_the_most_probable_token(engine):
    (answer,) = drawn(engine, [PROMPTS[1]], ["a"], count=1, temperature=0.0, max_new_tokens=4)[0]
    ids = list(PROMPTS[1])
    for token in answer.ids:
        assert token == next_tokens(engine, ids).argmax()
        ids.append(token)
    assert answer.ids
