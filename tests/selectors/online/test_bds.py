"""The Bayesian data scheduler against the vectors, and what makes it work."""

import json

import numpy as np
import pytest
import torch

from tamis.errors import DataError
from tamis.selectors.online import build, schedule
from tamis.selectors.online.losses import row_losses

INIT = {"softmax": None, "sigmoid": -1e-4, "linear": -1e-4}


def test_trajectories(vectors):
    paths = sorted(vectors("bds").glob("scalar_*.npz"))
    assert paths
    for path in paths:
        case = np.load(path)
        cfg = json.loads(str(case["cfg"]))
        kind = cfg["activation"]
        w = np.full(cfg["n"], cfg["init"] if INIT[kind] is None else INIT[kind])
        adam = schedule.Adam(cfg["n"], cfg["lr"], tuple(cfg["betas"]), cfg["eps"], cfg["grad_clip"])
        priors = schedule.Priors(
            cfg["entropy"], cfg["gaussian_prior"], cfg["gaussian_mu"], cfg["gaussian_sigma"]
        )
        for step, row in enumerate(case["batch_ids"]):
            ids = row[row >= 0]
            losses = case["batch_losses"][step][row >= 0].astype(float)
            used = case["batch_weights_used"][step][row >= 0]
            np.testing.assert_allclose(
                schedule.weights(w, kind)[ids], used, rtol=1e-4, atol=2e-5, err_msg=path.name
            )
            value, gradient = schedule.loss_and_gradient(w, ids, losses, kind, priors)
            assert value == pytest.approx(float(case["scheduler_loss"][step]), rel=1e-4, abs=2e-5)
            w = adam.step(w, gradient)
            np.testing.assert_allclose(w, case["logits_after"][step], rtol=0, atol=2e-5)
        # A linear weight is the logit itself, near 0, and shares its absolute tolerance.
        loose = 2e-5 if kind == "linear" else 0.0
        np.testing.assert_allclose(
            schedule.weights(w, kind), case["weights_final"], rtol=1e-4, atol=loose
        )


def test_one_step(vectors):
    case = np.load(vectors("bds") / "one_step_oracle.npz")
    w, ids, ft, safe = (case[name] for name in ("w", "ide", "ft_loss", "safe_loss"))
    weight = schedule.weights(w)[ids]
    np.testing.assert_allclose(weight, case["weights"], rtol=1e-10)
    _, gradient = schedule.loss_and_gradient(w, ids, ft)
    np.testing.assert_allclose(gradient, case["grad_w"], rtol=1e-10, atol=1e-14)
    modes = {
        "safe+weighted": "minus1",
        "weighted": "minus2",
        "plain": "minus3",
        "safe+plain": "minus4",
        float(case["ul"]): "ul",
    }
    for mode, name in modes.items():
        expected = float(case[f"joint_loss_mode_{name}"])
        assert schedule.joint_loss(safe, ft, weight, mode) == pytest.approx(expected, rel=1e-10)
    np.testing.assert_allclose(
        schedule.batch_weights(case["scorer_logits"]), case["neural_batch_weights"], rtol=1e-10
    )
    moved = schedule.langevin(
        w, gradient, float(case["sgld_eta"]), float(case["sgld_temp"]), case["sgld_noise"]
    )
    np.testing.assert_allclose(moved, case["sgld_w_next"], rtol=1e-10)


def test_losses_of_rows(vectors):
    case = np.load(vectors("bds") / "per_sample_ce.npz")
    logits = torch.as_tensor(case["logits"])
    mean, tokens = row_losses(logits, torch.as_tensor(case["labels"]))
    np.testing.assert_allclose(mean, case["loss_mean"], rtol=1e-5)
    np.testing.assert_allclose(mean * tokens, case["loss_sum"], rtol=1e-5)
    mean, tokens = row_losses(logits, torch.as_tensor(case["labels_empty0"]))
    assert tokens[0] == 0 and bool(mean[0].isnan())
    np.testing.assert_allclose(mean[1:], case["loss_mean_empty0"][1:], rtol=1e-5)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid", "linear"])
def test_the_gradient_is_that_of_the_loss(kind):
    rng = np.random.default_rng(0)
    w, losses = rng.standard_normal(9), rng.random(5)
    ids = np.array([2, 5, 2, 0, 8])  # a row may stand in a batch twice
    priors = schedule.Priors(0.3, 0.2, 0.1, 0.7)
    _, gradient = schedule.loss_and_gradient(w, ids, losses, kind, priors)
    for row in range(9):
        step = np.eye(9)[row] * 1e-6
        ends = [
            schedule.loss_and_gradient(w + s, ids, losses, kind, priors)[0] for s in (step, -step)
        ]
        assert gradient[row] == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5, abs=1e-8)


def trained(options, epochs=20, seed=0, scale=1.0):
    """A pool of 1000 rows, a tenth of twice the loss; batches of 10. Embeddings as wide and as
    long as hidden states, with much in common; harmful rows differ in eight numbers of 384."""
    rng = np.random.default_rng(seed)
    harmful = np.arange(1000) % 10 == 0
    loss = rng.lognormal(0, 0.2, 1000) * np.where(harmful, 2.0, 1.0)
    embedding = rng.standard_normal((1000, 384)) + 2 * rng.standard_normal(384)
    embedding[:, :8] += 3 * harmful[:, None]
    embedding *= scale
    bds = build("bds", options)
    bds.start(1, rows=1000, width=384)
    for _ in range(epochs):
        for ids in rng.permutation(1000).reshape(-1, 10):
            scores = bds.score({"ids": ids, "loss": loss[ids], "embedding": embedding[ids]})
            bds.commit(scores, np.arange(10))
    return bds.weights(), harmful


def test_the_gradient_of_a_line_over_the_whole_pool_is_that_of_the_loss():
    rng = np.random.default_rng(3)
    x, losses, v = rng.standard_normal((12, 4)), rng.random(12), rng.standard_normal(4)
    priors = schedule.Priors(entropy=0.7)

    def value(line):
        return schedule.loss_and_gradient(x @ line, np.arange(12), losses, priors=priors)[0]

    found = schedule.line_gradient(x @ v, np.arange(12), losses, x, 0.7)
    for at in range(4):
        step = np.eye(4)[at] * 1e-6
        assert found[at] == pytest.approx((value(v + step) - value(v - step)) / 2e-6, rel=1e-5)
    lost = losses.copy()
    lost[5] = np.nan
    some = np.delete(np.arange(12), 5)
    np.testing.assert_allclose(
        schedule.line_gradient(x @ v, np.arange(12), lost, x),
        schedule.line_gradient(x @ v, some, losses[some], x[some]),
    )


def test_dense_moments_are_what_separates_harmful_rows():
    weight, harmful = trained({})
    assert weight.mean() == pytest.approx(1)
    assert weight[harmful].mean() < 0.6  # a lazy update stays near 1


def test_the_amortised_scheduler_is_trained():
    weight, harmful = trained({"scheduler": "amortised"}, epochs=10)
    assert weight[harmful].mean() < 0.4 < weight[~harmful].mean()
    assert weight.sum() ** 2 / (weight @ weight) > 500  # not one row has it all
    longer, _ = trained({"scheduler": "amortised"}, epochs=10, scale=20.0)
    np.testing.assert_allclose(longer, weight, rtol=1e-6)


def test_entropy_flattens():
    plain, entropy = (trained(o, epochs=5)[0] for o in ({}, {"entropy": 100.0}))
    assert entropy.std() < 0.2 * plain.std()


def test_a_loss_that_is_not_finite_moves_nothing():
    bds = build("bds", {})
    bds.start(0, rows=4)
    before = bds.logits.copy()
    scores = bds.score({"ids": np.array([1, 2]), "loss": np.array([np.nan, np.inf])})
    assert scores["weight"].tolist() == [0, 0]
    bds.commit(scores, np.array([0, 1]))
    np.testing.assert_array_equal(bds.logits, before)


@pytest.mark.parametrize("options", [{}, {"temperature": 0.1}, {"scheduler": "amortised"}])
def test_a_resumed_run_has_the_same_weights(options):
    def go(bds, steps):
        for step in steps:
            rng = np.random.default_rng(step)
            given = {"ids": rng.permutation(30)[:5], "loss": rng.random(5)}
            given["embedding"] = rng.random((5, 2))
            bds.commit(bds.score(given), np.arange(5))
        return bds.weights()

    made = [build("bds", options) for _ in range(3)]
    for bds in made:
        bds.start(0, rows=30, width=2)
    straight = go(made[0], range(9))
    go(made[1], range(4))
    made[2].load_state_dict(made[1].state_dict())
    np.testing.assert_array_equal(go(made[2], range(4, 9)), straight)


def test_a_row_that_is_not_in_the_pool_is_refused():
    bds = build("bds", {})
    bds.start(0, rows=4)
    with pytest.raises(DataError, match="4 rows"):
        bds.score({"ids": np.array([4]), "loss": np.array([1.0])})
