"""The rules that keep no state of the rows, and what holds for all of them."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.errors import DataError, RecipeError
from tamis.selectors.online import build, describe, get, names
from tamis.selectors.online.base import best
from tamis.selectors.online.greats import greedy

ALL = np.ones(6, bool)


def test_greats_greedy(vectors):
    cases = json.loads((vectors("uds") / "greats_greedy.json").read_text())
    for case in cases:
        scores, interaction = np.array(case["scores"]), np.array(case["interaction"])
        found = greedy(scores, interaction, np.ones(len(scores), bool), case["K"])
        assert found.tolist() == case["chosen_in_order"]


@given(st.lists(st.one_of(st.integers(-2, 2), st.just(float("nan"))), min_size=1), st.data())
def test_best_is_the_sorted_order_with_ties_to_the_lowest_row(total, data):
    eligible = data.draw(st.lists(st.booleans(), min_size=len(total), max_size=len(total)))
    k = data.draw(st.integers(1, len(total) + 2))
    found = best(np.array(total, float), np.array(eligible), k)
    rows = [i for i, may in enumerate(eligible) if may]
    order = sorted(rows, key=lambda i: (-total[i] if total[i] == total[i] else np.inf, i))
    assert found.tolist() == sorted(order[:k])


def test_many_ties_go_to_the_lowest_rows():
    total = np.arange(200) % 2 / 1.0
    assert best(total, np.ones(200, bool), 40).tolist() == list(range(1, 80, 2))


def test_best_refuses_nonsense():
    with pytest.raises(DataError, match="k=0"):
        best(np.zeros(6), ALL, 0)
    with pytest.raises(DataError, match="one score a row"):
        best(np.zeros(5), ALL, 1)


def step(rule, batch, k=2):
    scores = rule.score(batch)
    picked = rule.pick(scores, ALL, k)
    rule.commit(scores, picked)
    return picked.tolist()


def made(name, options=None):
    rule = build(name, options)
    rule.start(7)
    return rule


def test_what_each_rule_keeps():
    loss = np.array([1.0, 3.0, 2.0, np.nan, 3.0, 0.0])
    assert step(made("max_loss"), {"loss": loss}) == [1, 4]
    assert step(made("max_gradnorm"), {"gradient_norm": loss}) == [1, 4]
    reference = np.array([0.0, 2.9, 0.5, 0.0, np.nan, -5.0])
    assert step(made("rho_loss"), {"loss": loss, "reference_loss": reference}) == [2, 5]


def test_greats_avoids_copies_that_a_sum_would_take():
    gradient = np.array([[10.0, 0], [9.9, 0], [0, 9.0], [-5, 0], [0, 0], [0, 0]])
    batch = {"gradient": gradient, "target_gradient": np.array([[1.0, 0], [0, 1.0]])}
    assert step(made("greats", {"learning_rate": 1e-6}), batch) == [0, 1]
    assert step(made("greats", {"learning_rate": 0.04}), batch) == [0, 2]


def test_greats_is_the_formula():
    rng = np.random.default_rng(0)
    g, v, lr = rng.standard_normal((6, 4)), rng.standard_normal((3, 4)), 0.1
    scores = made("greats", {"learning_rate": lr}).score({"gradient": g, "target_gradient": v})
    for i in range(6):
        assert scores["total"][i] == pytest.approx(lr * np.mean([g[i] @ x for x in v]))
        for j in range(6):
            assert scores["interaction"][i, j] == pytest.approx(lr**2 * g[i] @ g[j])


def test_the_ties_of_a_part_are_those_of_its_rows():
    rng = np.random.default_rng(1)
    g, v, rows = rng.standard_normal((6, 4)), rng.standard_normal((2, 4)), np.array([1, 4, 5])
    rule = made("greats", {"learning_rate": 0.3})
    part = rule.part(rule.score({"gradient": g, "target_gradient": v}), rows)
    alone = rule.score({"gradient": g[rows], "target_gradient": v})
    for name in ("total", "interaction"):
        np.testing.assert_allclose(part[name], alone[name])


def test_kmeans_keeps_one_row_of_each_cluster_and_fills_up():
    far = np.array([0.0, 0.1, 0.05, 9.0, 9.1, 9.05])[:, None]
    assert step(made("kmeans"), {"embedding": far}) == [2, 5]
    same = np.zeros((6, 1))
    same[4] = np.nan
    assert step(made("kmeans"), {"embedding": same}, 5) == [0, 1, 2, 3, 5]


def test_rounding_does_not_decide_which_of_a_pair_kmeans_keeps():
    """Two rows are as far from their common centre as each other, whatever the last bits say."""
    rng = np.random.default_rng(0)
    pairs = rng.standard_normal((3, 16)).repeat(2, axis=0) * 50 + rng.standard_normal((6, 16))
    for seed in range(20):
        noise = 1e-6 * np.random.default_rng(seed).standard_normal(pairs.shape)
        assert step(made("kmeans"), {"embedding": pairs + noise}, 3) == [0, 2, 4]


@pytest.mark.parametrize("name", ["random", "kmeans"])
def test_draws_hang_on_seed_and_step_alone(name):
    def batch(at):
        x = np.random.default_rng(at).random((6, 2))
        return {"tokens": np.ones(6), "embedding": x}

    rule = made(name)
    straight = [step(rule, batch(at)) for at in range(9)]
    assert len(set(map(tuple, straight))) > 1
    first, resumed = made(name), made(name)
    for at in range(4):
        step(first, batch(at))
    resumed.load_state_dict(first.state_dict())
    assert [step(resumed, batch(at)) for at in range(4, 9)] == straight[4:]


def test_random_is_uniform_and_another_seed_draws_other_rows():
    rule = made("random")
    counts = np.zeros(6)
    for _ in range(3000):
        counts[step(rule, {"tokens": ALL})] += 1
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(3000 * 2 / 9)
    other = build("random")
    other.start(8)
    rule = made("random")
    assert [step(rule, {"tokens": ALL}) for _ in range(9)] != [
        step(other, {"tokens": ALL}) for _ in range(9)
    ]


@pytest.mark.parametrize("name", names())
def test_rows_that_may_not_be_picked_are_not_and_tensors_do_as_arrays(name):
    import torch

    made_of = torch.Generator().manual_seed(0)
    hidden = torch.randn(6, 5, 4, generator=made_of)
    vector = torch.rand(6, generator=made_of)
    batch = {
        "hidden": hidden,
        "attention": torch.ones(6, 5, dtype=torch.bool),
        "ids": torch.arange(6),
        "embedding": hidden[:, 0],
        "gradient": hidden[:, 1],
        "target_gradient": hidden[:2, 2],
        **{c: vector for c in ("loss", "reference_loss", "gradient_norm", "tokens")},
    }
    rule = build(name)
    started = {"uds": {"head": torch.randn(20, 4, generator=made_of)}, "bds": {"rows": 6}}
    rule.start(0, **started.get(name, {}))
    assert rule.needs() <= set(batch)
    scores = rule.score({column: batch[column] for column in rule.needs()})
    may = np.array([False, True, True, False, True, True])
    for k, count in ((1, 1), (3, 3), (4, 4), (9, 4)):
        picked = rule.pick(scores, may, k)
        assert picked.dtype == np.int64 and len(picked) == count
        assert may[picked].all() and (np.diff(picked) > 0).all()
    rule.commit(scores, picked)
    assert rule.state_dict()["step"] == 1
    missing = sorted(rule.needs())[0]
    with pytest.raises(DataError, match=f"{name} needs {missing}"):
        rule.score({c: batch[c] for c in rule.needs() - {missing}})


def test_registry():
    assert all(describe(name)["sentence"] for name in names())
    assert all(get(name).name == name for name in names())
    with pytest.raises(RecipeError, match="did you mean uds"):
        build("udss")
    with pytest.raises(RecipeError, match=r"uds\.rows"):
        build("uds", {"rows": "some"})
    for name, options in (
        ("uds", {"queue": 0}),
        ("uds", {"alpha": -1.0}),
        ("greats", {"learning_rate": 0.0}),
        ("bds", {"entropy": -1.0}),
    ):
        with pytest.raises(RecipeError):
            build(name, options)
