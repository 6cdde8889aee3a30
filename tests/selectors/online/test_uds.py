"""UDS against the vectors, and what its score must not hang on."""

import json

import numpy as np
import pytest
import torch

from tamis.errors import DataError
from tamis.selectors.online import build
from tamis.selectors.online.base import best
from tamis.selectors.online.fifo import Fifo
from tamis.selectors.online.nuclear import (
    Projection,
    compact,
    embed,
    factor,
    nuclear_norm,
    root_trace,
)


def tensor(x):
    return torch.as_tensor(np.asarray(x))


def test_nuclear_norm(vectors):
    case = np.load(vectors("uds") / "nuclear.npz")
    for name in (key[:-2] for key in case if key.endswith("_L")):
        found = float(nuclear_norm(tensor(case[f"{name}_L"])[None])[0])
        largest = case[f"{name}_sv_f64"].max(initial=0.0)
        assert found == pytest.approx(float(case[f"{name}_nuc_f64"]), rel=0, abs=1e-6 * largest)


def test_projection(vectors):
    case = np.load(vectors("uds") / "projection.npz")
    for name in (key[:-2] for key in case if key.endswith("_X")):
        x = tensor(case[f"{name}_X"])
        drawn = Projection(
            *(
                case[f"{name}_{part}"]
                for part in ("d1_time_signs", "d2_vocab_signs", "idx1_time", "idx2_vocab")
            )
        )
        head = torch.eye(x.shape[2], dtype=torch.float64)
        z = embed(x, drawn, drawn.along_vocabulary(head)).numpy()
        expected = case[f"{name}_z"]
        np.testing.assert_allclose(z, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("power", [0.0, 1.0, 3.0, 8.0, 30.0])
def test_the_trace_of_a_root_by_products_is_that_by_eigenvalues(power):
    """From equal singular values to some far below what float64 holds of a Gram matrix."""
    made = torch.Generator().manual_seed(0)
    sizes = torch.arange(1, 41, dtype=torch.float64) ** -power
    sides = (torch.linalg.qr(torch.randn(3, n, 40, generator=made).double())[0] for n in (50, 90))
    left, right = sides
    x = 70 * (left * sizes) @ right.mT
    x[2] = 0
    found = root_trace(x @ x.mT)
    expected = torch.linalg.svdvals(x).sum(dim=1)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


def test_where_products_do_not_settle_eigenvalues_are_taken():
    mixed = torch.stack([torch.diag(torch.tensor([1.0, -0.5])), torch.eye(2)]).double()
    torch.testing.assert_close(root_trace(mixed), torch.tensor([1.0, 2.0]).double())


@pytest.mark.parametrize("mask", ["attention_mask_right", "attention_mask_left", "response_mask"])
def test_hidden_route(vectors, mask):
    case = np.load(vectors("uds") / "hidden_route.npz")
    head = tensor(case["W"])
    drawn = Projection(
        *(case[part] for part in ("time_signs", "vocab_signs", "idx_time", "idx_vocab"))
    )
    short = mask.removeprefix("attention_mask_").removesuffix("_mask")
    x, count = compact(tensor(case["H"]), tensor(case[mask]))
    assert count.tolist() == case[mask].sum(1).tolist()
    np.testing.assert_allclose(
        nuclear_norm(x.double() @ factor(head)), case[f"nuc_{short}"], rtol=1e-6
    )
    z = embed(x, drawn, drawn.along_vocabulary(head))
    expected = case[f"z_{short}"]
    np.testing.assert_allclose(z, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["sequence_small", "sequence_varlen", "sequence_partial_evict"])
def test_sequences(vectors, name):
    case = np.load(vectors("uds") / f"{name}.npz")
    cfg = json.loads(str(case["cfg"]))
    uds = started(
        cfg["V"],
        head=torch.eye(cfg["V"]),
        alpha=cfg["alpha"],
        queue=cfg["queue_size"],
        vocab_dim=cfg["projection_dim1_vocab"],
        time_dim=cfg["projection_dim2_time"],
        max_length=cfg["T_max"],
        rows="all",
    )
    names = ("time_signs", "vocab_signs", "time_index", "vocab_index")
    arrays = ("d1_time_signs", "d2_vocab_signs", "idx1_time", "idx2_vocab")
    given = {n: tensor(case[a]) for n, a in zip(names, arrays, strict=True)}
    uds.load_state_dict({**uds.state_dict(), **given})
    for step in range(cfg["steps"]):
        at = f"s{step:02d}"
        scores = uds.score({"hidden": tensor(case[f"{at}_logits"])})
        np.testing.assert_allclose(scores["utility"], case[f"{at}_utility"], rtol=1e-5)
        np.testing.assert_allclose(scores["diversity"], case[f"{at}_diversity"], rtol=1e-4)
        np.testing.assert_allclose(scores["total"], case[f"{at}_combined"], rtol=1e-4)
        picked = uds.pick(scores, np.ones(cfg["B"], bool), cfg["K"])
        assert picked.tolist() == case[f"{at}_chosen_sorted"].tolist()
        uds.commit(scores, case[f"{at}_chosen_official_order"])
        state = uds.state_dict()
        assert [state["pointer"], state["count"]] == case[f"{at}_ptr_count"].tolist()
        held, expected = state["points"][: state["count"]], tensor(case[f"{at}_queue_rows_sorted"])
        nearest = torch.cdist(held.double(), expected.double()).argmin(1)
        assert sorted(nearest.tolist()) == list(range(len(expected)))
        scale = float(expected.abs().max())
        np.testing.assert_allclose(held, expected[nearest], rtol=1e-4, atol=1e-4 * scale)


def started(vocabulary=40, width=6, head=None, **options):
    uds = build("uds", {"queue": 4, "vocab_dim": 8, "time_dim": 4, "max_length": 32, **options})
    made = torch.Generator().manual_seed(1)
    uds.start(3, head if head is not None else torch.randn(vocabulary, width, generator=made))
    return uds


def batch(rows=5, length=9, width=6, seed=0):
    made = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, length, width, generator=made)
    sizes = torch.arange(rows) % 4 + length - 4
    attention = torch.arange(length)[None] < sizes[:, None]
    return {"hidden": hidden, "attention": attention}


def test_padding_changes_nothing():
    uds, given = started(), batch()
    plain = uds.score(given)
    pad, no = torch.full((5, 3, 6), 7.0), torch.zeros(5, 3, dtype=torch.bool)
    for order in (0, 1):
        parts = [[given["hidden"], pad], [given["attention"], no]]
        hidden, attention = (torch.cat(p[:: -1 if order else 1], 1) for p in parts)
        other = uds.score({"hidden": hidden, "attention": attention})
        np.testing.assert_allclose(other["total"], plain["total"], rtol=1e-9)
        np.testing.assert_allclose(other["z"], plain["z"], rtol=1e-9)


def test_the_utility_is_that_of_the_logits_even_with_a_head_of_dependent_columns():
    head = torch.randn(40, 6, generator=torch.Generator().manual_seed(5))
    head[:, 5], head[:, 2] = head[:, 0], 0.0  # no Cholesky factor: a pivot is 0
    uds, given = started(head=head), batch()
    found = uds.score(given)["utility"]
    for row, utility in enumerate(found):
        logits = given["hidden"][row][given["attention"][row]].double() @ head.double().T
        assert utility == pytest.approx(float(torch.linalg.svdvals(logits).sum()), rel=1e-6)


def test_no_tensor_of_positions_by_vocabulary_is_made():
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        cells = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for made in out if isinstance(out, (tuple, list)) else [out]:
                if isinstance(made, torch.Tensor):
                    self.cells = max(self.cells, made.numel())
            return out

    uds, given = started(vocabulary=5000), batch()
    with Largest() as seen:
        uds.score(given)
    assert 0 < seen.cells < 9 * 5000


def test_only_answer_positions_and_length():
    given = batch()
    labels = torch.full((5, 9), -100)
    labels[:, 3:5] = 1
    labels[4] = -100
    given["labels"] = labels
    answer = started(rows="response").score(given)
    by_hand = started(rows="all").score({"hidden": given["hidden"][:4, 2:4]})
    np.testing.assert_allclose(answer["utility"][:4], by_hand["utility"], rtol=1e-9)
    assert answer["utility"][4] == 0 and not answer["z"][4].any()
    per_token = started(rows="response", normalise="length").score(given)["utility"]
    np.testing.assert_allclose(per_token[:4], answer["utility"][:4] / 2)


def test_a_resumed_run_picks_the_same_rows_and_an_empty_queue_would_not():
    def go(uds, steps):
        picks = []
        for step in steps:
            scores = uds.score(batch(rows=8, seed=step))
            picks.append(uds.pick(scores, np.ones(8, bool), 2).tolist())
            uds.commit(scores, np.asarray(picks[-1]))
        return picks

    whole = started(alpha=5.0)
    straight = go(whole, range(8))
    first, resumed = started(alpha=5.0), started(alpha=5.0)
    go(first, range(3))
    resumed.load_state_dict(first.state_dict())
    assert go(resumed, range(3, 8)) == straight[3:]
    assert go(started(alpha=5.0), range(3, 8)) != straight[3:]


def test_the_global_generator_is_left_alone():
    before = torch.random.get_rng_state()
    started().score(batch())
    assert torch.equal(before, torch.random.get_rng_state())


def test_rows_that_are_not_finite_are_picked_last_and_never_held():
    uds, given = started(), batch()
    given["hidden"][1, 0, 0] = float("nan")
    scores = uds.score(given)
    assert np.isnan(scores["total"]).tolist() == [False, True, False, False, False]
    assert best(scores["total"], np.ones(5, bool), 4).tolist() == [0, 2, 3, 4]
    uds.commit(scores, np.arange(5))
    assert uds.state_dict()["count"] == 4
    assert np.isfinite(uds.score(batch())["diversity"]).all()


def test_a_queue_smaller_than_a_push_keeps_the_last():
    queue = Fifo(2, 1)
    queue.push(torch.tensor([[1.0], [2.0], [3.0]]))
    assert sorted(queue.points.flatten().tolist()) == [2.0, 3.0]
    assert queue.mean_distance(torch.tensor([[3.0]])).tolist() == [0.5]


def test_too_long_a_batch_is_refused():
    with pytest.raises(DataError, match="max_length"):
        started(rows="all").score({"hidden": torch.zeros(1, 33, 6)})


def test_a_part_of_a_batch_has_the_scores_it_would_have_now():
    """As if each part had been scored when its turn came: only the queue changes in between."""
    whole, apart, given = started(alpha=5.0), started(alpha=5.0), batch(rows=9)
    given["hidden"][8, 0, 0] = float("nan")
    scores = whole.score(given)
    for rows in np.split(np.arange(9), 3):
        found = whole.part(scores, rows)
        expected = apart.score({name: values[rows] for name, values in given.items()})
        for name in ("total", "utility", "diversity"):
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-9)
        picked = whole.pick(found, np.ones(3, bool), 1)
        assert picked.tolist() == apart.pick(expected, np.ones(3, bool), 1).tolist()
        whole.commit(found, picked), apart.commit(expected, picked)
    assert not np.allclose(found["total"][:2], scores["total"][6:8], rtol=1e-3)
    np.testing.assert_array_equal(whole.state_dict()["points"], apart.state_dict()["points"])
