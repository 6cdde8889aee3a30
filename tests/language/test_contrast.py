"""Texts drawn from what lies between two models."""

import numpy as np
import pytest
import torch

from tamis.errors import RecipeError
from tamis.language.contrast import Contrast, Drawn, Rule
from tamis.language.forward import Engine, Pass
from tamis.language.load import load_model
from tamis.numerics.contrast import log_softmax
from tamis.recipe import Model

START, STOPS = [7, 9], [0]
LETTERS = range(100, 110)


@pytest.fixture(scope="module")
def folder(tiny_lm):
    return tiny_lm(seed=3)


@pytest.fixture(scope="module")
def base(folder):
    return Engine(Model(path=str(folder), prompt_style="plain"), "cpu")


@pytest.fixture(scope="module")
def tuned(folder, tmp_path_factory):
    """The base after some steps on one of four kinds of runs of letters that it has never seen."""
    rng = np.random.default_rng(0)
    lm = load_model(Model(path=str(folder), prompt_style="plain"), "cpu").train()
    optimizer = torch.optim.AdamW(lm.parameters(), lr=3e-3)
    for _ in range(40):
        rows = [[*START, *rng.choice(LETTERS, 20)] for _ in range(8)]
        ids = torch.tensor(rows)
        lm(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    place = tmp_path_factory.mktemp("tuned")
    lm.save_pretrained(place)
    for path in folder.iterdir():
        if not (place / path.name).exists():
            (place / path.name).write_bytes(path.read_bytes())
    return Engine(Model(path=str(place), prompt_style="plain"), "cpu")


def pair(tuned, base, learning_rate=0.0, seed=0):
    return Contrast(tuned, base, learning_rate=learning_rate, seed=seed)


def draw(models, numbers, **rule):
    return models.draw(START, numbers, STOPS, Rule(**{"least": 4, "most": 12} | rule))


def test_texts_show_what_tuning_added(tuned, base):
    texts = draw(pair(tuned, base), range(12))
    new = np.mean([token in LETTERS for text in texts for token in text.ids])
    by_chance = len(LETTERS) / base.vocabulary
    assert new > 0.5 > 10 * by_chance
    assert all(text.score > 0 for text in texts)


def test_the_scores_are_those_of_whole_forward_passes(tuned, base):
    for text in draw(pair(tuned, base), range(5)):
        whole = [*START, *text.ids]
        one = Pass(whole, np.arange(len(START), len(whole)))
        for engine, told in ((tuned, text.tuned), (base, text.base)):
            assert engine.logprobs([one])[0].mean() == pytest.approx(told, abs=1e-5)


def test_a_text_does_not_depend_on_those_drawn_with_it(tuned, base):
    models = pair(tuned, base)
    together = draw(models, range(6), least=0)
    assert together == [
        Drawn(one.ids, pytest.approx(one.tuned, abs=1e-6), pytest.approx(one.base, abs=1e-6))
        for n in range(6)
        for one in draw(models, [n], least=0)
    ]
    assert len({tuple(text.ids) for text in together}) == 6
    assert draw(pair(tuned, base, seed=1), range(6), least=0) != together


def test_texts_end_at_a_stop_but_not_too_early(tuned, base):
    models = pair(tuned, base)
    stops = [0, *LETTERS]
    early = models.draw(START, range(8), stops, Rule(least=0, most=12))
    late = models.draw(START, range(8), stops, Rule(least=5, most=12))
    assert min(len(t.ids) for t in early) < 5
    assert all(5 <= len(t.ids) <= 12 for t in late)
    assert not any(set(t.ids) & set(stops) for t in (*early, *late))


def test_only_the_best_token_is_plausible_at_alpha_one(tuned, base):
    (text, other) = draw(pair(tuned, base), [0, 1], alpha=1.0, least=0)
    assert text.ids == other.ids
    ids = list(START)
    with torch.inference_mode():
        for token in text.ids:
            hidden = tuned.network.backbone(torch.tensor([ids])).last_hidden_state
            assert int(tuned.network.head(hidden)[0, -1].argmax()) == token
            ids.append(token)


def test_equal_models_find_nothing_and_draw_alike_from_what_is_plausible(base):
    models = pair(base, base)
    texts = draw(models, range(600), least=0, most=1, alpha=0.5)
    assert all(text.score == 0 for text in texts)
    with torch.inference_mode():
        hidden = base.network.backbone(torch.tensor([START])).last_hidden_state
        p = np.exp(log_softmax(base.network.head(hidden)[0, -1].numpy()))
    plausible = np.flatnonzero(p >= 0.5 * p.max())
    seen = np.bincount([t.ids[0] if t.ids else 0 for t in texts], minlength=len(p)) / 600
    assert seen[plausible].sum() == 1
    share = 1 / len(plausible)
    assert (np.abs(seen[plausible] - share) < 5 * np.sqrt(share / 600) + 5 / 600).all()


def test_what_the_base_has_learnt_is_less_new(tuned, base):
    models = pair(tuned, base, learning_rate=1e-2)
    still = draw(pair(tuned, base), range(4))
    first = draw(models, range(4))
    assert first == still  # an adapter that has learnt nothing changes nothing
    whole = [*START, *first[0].ids]
    before = models.base_nll(whole)
    assert before == pytest.approx(pair(tuned, base).base_nll(whole), abs=1e-6)
    for _ in range(5):
        models.learn(START, first)
    assert models.base_nll(whole) < before - 0.1
    assert np.mean([t.score for t in draw(models, range(4))]) < np.mean([t.score for t in first])
    # The model that others use is not the one that learns.
    assert pair(tuned, base).base_nll(whole) == pytest.approx(before, abs=1e-6)


def test_learning_is_the_same_each_time(tuned, base):
    def learnt():
        models = pair(tuned, base, learning_rate=1e-2)
        models.learn(START, draw(models, range(3)))
        return models.base_nll([*START, *LETTERS])

    torch.manual_seed(1)
    first = learnt()
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    assert learnt() == first
    assert torch.equal(torch.random.get_rng_state(), state)


def test_models_of_other_tokens_are_refused(base, tiny_lm):
    folder = tiny_lm(seed=3)
    table = folder / "tokenizer.json"
    swapped = table.read_text(encoding="utf-8").replace('"<|user|>"', '"<|guest|>"')
    table.write_text(swapped, encoding="utf-8")
    other = Engine(Model(path=str(folder), prompt_style="plain"), "cpu")
    with pytest.raises(RecipeError, match="do not share a tokenizer"):
        pair(other, base)


@pytest.mark.parametrize("wrong", [{"alpha": 1.5}, {"alpha": -0.1}, {"least": 9, "most": 8}])
def test_rules_out_of_range_are_refused(wrong):
    with pytest.raises(RecipeError):
        Rule(**wrong)
