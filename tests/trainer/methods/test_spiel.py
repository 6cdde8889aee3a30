"""SpIEL: one exchange by brute force, its phases, its optimizers, what a dropped entry loses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tamis.errors import RecipeError
from tamis.trainer import methods
from tamis.trainer.methods.regrow import Candidates, exchange


def brute(
    index: list[int], values: list[float], candidates: list[int], scores: list[float], count: int
) -> dict[int, int]:
    """Which entry each changing entry gives way to, by sets and sorted lists."""
    leaving = sorted(range(len(index)), key=lambda i: abs(values[i]))[:count]
    staying = {index[i] for i in range(len(index)) if i not in leaving}
    free = [c for c in candidates if c not in staying]
    best = sorted(free, key=lambda c: -scores[candidates.index(c)])[:count]
    out = [index[i] for i in leaving if index[i] not in best]
    new = [c for c in best if c not in {index[i] for i in leaving}]
    return dict(zip(out, new, strict=False))


@pytest.mark.parametrize("seed", range(20))
def test_an_exchange_is_that_of_brute_force(seed: int) -> None:
    import torch

    rng = np.random.default_rng(seed)
    size, trained = 40, int(rng.integers(4, 16))
    index = rng.permutation(size)[:trained]
    values = rng.normal(size=trained)
    candidates = rng.permutation(size)[: int(rng.integers(1, 20))]
    scores = rng.random(len(candidates))
    count = int(rng.integers(0, trained + 1))
    given = (torch.from_numpy(a) for a in (index, values, candidates, scores))
    at, new, which = (found.numpy() for found in exchange(*given, count))
    found = dict(zip(index[at].tolist(), new.tolist(), strict=True))
    wanted = brute(index.tolist(), list(values), candidates.tolist(), list(scores), count)
    assert found == wanted
    assert candidates[which].tolist() == new.tolist()
    after = index.copy()
    after[at] = new
    assert len({*after.tolist()}) == trained  # no entry twice


def test_candidates_are_the_largest_of_the_first_step_over_all_its_batches() -> None:
    import torch

    torch.manual_seed(0)
    parts = torch.randn(3, 2, 12)  # steps, batches, entries
    seen = Candidates(torch.zeros(3, 4), 5)
    for step in parts:
        for batch in step:
            seen.hear(batch)
        seen.close()
    whole = parts.sum(1)
    wanted = torch.topk(whole[0].abs(), 5).indices.sort().values
    assert torch.equal(seen.index, wanted) and seen.steps == 3
    torch.testing.assert_close(seen.total, whole[:, wanted].sum(0))
    torch.testing.assert_close(seen.squares, (whole[:, wanted] ** 2).sum(0))


def upon(run: Any) -> tuple[Any, Any, Any]:
    """The optimizer of a run by hand in training mode, and the entries of one of its layers."""
    run.lm.train()
    optimizer = run.method.optimizer(run.trained, 1e-2, 0.0)
    name = sorted(run.method.entries)[0]
    return optimizer, name, run.method.entries[name]


def test_the_first_choice_takes_the_largest_gradients_and_their_moments(by_hand: Any) -> None:
    import torch

    run, other = by_hand("spiel", density=0.05, accumulation=2, interval=4), by_hand("full")
    optimizer, name, entries = upon(run)
    before = entries.index.clone()
    weight = other.lm.get_submodule(name).weight
    weight.requires_grad_(True)
    dense = []
    for step in range(2):
        other.lm.load_state_dict(
            {n: v for n, v in run.lm.state_dict().items() if not n.endswith("entries")}
        )
        weight.grad = None
        other.loss().backward()
        dense.append(weight.grad.flatten().clone())
        run.step(step, optimizer)
        assert torch.equal(entries.index, before)
    learnt = dict(zip(before.tolist(), entries.values.tolist(), strict=True))
    run.method.step_begin(2, optimizer)
    wanted = {*torch.topk(dense[0].abs(), len(before)).indices.tolist()}
    assert {*entries.index.tolist()} == wanted
    state, total = optimizer.state[entries.values], dense[0] + dense[1]
    squares = dense[0] ** 2 + dense[1] ** 2
    flat = entries.layer.weight.flatten()
    base = by_hand("full").lm.get_submodule(name).weight.detach().flatten()
    for at, entry in enumerate(entries.index.tolist()):
        if entry in learnt:  # dropped and grown at once: as it was
            assert entries.values[at] == learnt[entry] and state["age"][at] == 3
            continue
        assert entries.values[at] == 0 and state["age"][at] == 2
        mean, square = total[entry] / 2 * (1 - 0.9**2), squares[entry] / 2 * (1 - 0.999**2)
        torch.testing.assert_close(state["exp_avg"][at], mean, rtol=1e-4, atol=1e-8)
        torch.testing.assert_close(state["exp_avg_sq"][at], square, rtol=1e-4, atol=1e-10)
    dropped = [e for e in before.tolist() if e not in wanted]
    assert dropped and torch.equal(flat[dropped], base[dropped])  # lost, to the bit
    assert run.method.facts()["replaced"][0]["step"] == 2


def test_rows_that_are_only_scored_name_no_candidates(by_hand: Any) -> None:
    import torch

    run = by_hand("spiel", density=0.05, accumulation=2, interval=4)
    optimizer, name, _ = upon(run)
    seen = []
    for scored in (False, True):
        run.method.step_begin(0, optimizer)
        if scored:
            run.lm.eval()
            parameters = [e.values for e in run.method.entries.values()]
            torch.autograd.grad(10 * run.loss(), parameters)
            run.lm.train()
        run.loss().backward()
        run.method.step_end(0)
        seen.append(run.method.phase[name].total)
    assert torch.equal(*seen)


def test_later_choices_change_a_falling_share(by_hand: Any) -> None:
    run = by_hand("spiel", density=0.1, accumulation=1, interval=3, rate=0.5)
    optimizer, _, entries = upon(run)
    changed = []
    for step in range(8):
        before = entries.index.clone()
        run.step(step, optimizer)
        changed.append(int((entries.index != before).sum()))
    assert [step for step, count in enumerate(changed) if count] == [1, 4, 7]
    k = len(entries.index)
    assert changed[4] <= int(0.5 * (1 - 4 / 8) * k) and changed[7] <= int(0.5 * (1 - 7 / 8) * k)
    assert changed[4] > changed[7] > 0
    assert [r["step"] for r in run.method.facts()["replaced"]] == [1, 4, 7]


def test_each_entry_is_corrected_by_its_own_age() -> None:
    import torch

    from tamis.trainer.methods.spiel_steps import aged_adam

    rng, b1, b2 = np.random.default_rng(0), 0.9, 0.999
    parameter = torch.nn.Parameter(torch.zeros(4))
    optimizer = aged_adam()([parameter], 0.1, weight_decay=0.5)
    value, mean, square, age = (np.zeros(4) for _ in range(4))
    age += 1
    for step in range(6):
        if step == 3:  # two entries are exchanged for others, noted for five steps
            state = optimizer.state[parameter]
            for known, own in ((state["age"], age), (state["exp_avg"], mean)):
                known[:2], own[:2] = 5, 5
        gradient = rng.normal(size=4)
        parameter.grad = torch.from_numpy(gradient).float()
        optimizer.step()
        mean, square = b1 * mean + (1 - b1) * gradient, b2 * square + (1 - b2) * gradient**2
        change = mean / (1 - b1**age) / ((np.sqrt(square) + 1e-8) / np.sqrt(1 - b2**age))
        value, age = (value - 0.1 * change) * (1 - 0.1 * 0.5), age + 1
        np.testing.assert_allclose(parameter.detach(), value, rtol=1e-4)


def test_sm3_by_hand() -> None:
    """Rows and columns of the entries alone, each the largest v that stood in it."""
    import torch

    from tamis.trainer.methods.sparse import Entries
    from tamis.trainer.methods.spiel_steps import entry_sm3

    rng = np.random.default_rng(0)
    layer = torch.nn.Linear(4, 3, bias=False).requires_grad_(False)
    index = np.array([0, 2, 5, 6, 11])
    entries = Entries(layer, torch.from_numpy(index), dense=True, delta=True)
    optimizer = entry_sm3()([entries], 0.1, weight_decay=0.5)
    row, column, values = np.zeros(3), np.zeros(4), np.zeros(5)
    for _ in range(3):
        gradient = rng.normal(size=5)
        entries.values.grad = torch.from_numpy(gradient).float()
        optimizer.step()
        v = [min(row[i // 4], column[i % 4]) + g**2 for i, g in zip(index, gradient, strict=True)]
        for i, size in zip(index, v, strict=True):
            row[i // 4], column[i % 4] = max(row[i // 4], size), max(column[i % 4], size)
        values = (values - 0.1 * gradient / np.sqrt(np.array(v) + 1e-8)) * (1 - 0.1 * 0.5)
        np.testing.assert_allclose(entries.values.detach(), values, rtol=1e-5)
    state = optimizer.state[entries.values]
    np.testing.assert_allclose(state["row"], row, rtol=1e-5)
    np.testing.assert_allclose(state["column"], column, rtol=1e-5)


def test_sm3_grows_where_row_and_column_are_large(by_hand: Any) -> None:
    import torch

    run = by_hand("spiel", density=0.1, accumulation=2, interval=4, grow="sm3")
    optimizer, _, entries = upon(run)
    for step in range(2):
        run.step(step, optimizer)
    state, before = optimizer.state[entries.values], {*entries.index.tolist()}
    product = torch.outer(state["row"], state["column"]).flatten()
    free = [i for i in range(len(product)) if i not in before]
    run.method.step_begin(2, optimizer)
    now = {*entries.index.tolist()}
    assert not now & before  # all of them the first time
    least = min(float(product[i]) for i in now)
    assert all(float(product[i]) <= least for i in free if i not in now)


def test_an_earlier_state_is_taken_up_upon_a_later_one(by_hand: Any) -> None:
    """As where the best of several checkpoints is left: other entries were trained since."""
    import torch

    run = by_hand("spiel", density=0.1, accumulation=1, interval=3, rate=0.9)
    optimizer, _, entries = upon(run)
    for step in range(3):
        run.step(step, optimizer)
    values = {n: e.values.detach().clone() for n, e in run.method.entries.items()}
    weights = {n: e.layer.weight.clone() for n, e in run.method.entries.items()}
    tensors, plain = run.method.state_dict()
    tensors = {n: t.clone() for n, t in tensors.items()}
    before = entries.index.clone()
    for step in range(3, 7):
        run.step(step, optimizer)
    assert not torch.equal(entries.index, before)
    for name, found in run.method.entries.items():
        found.values.data.copy_(values[name])
    run.method.load_state_dict(tensors, plain)
    for name, found in run.method.entries.items():
        assert torch.equal(found.layer.weight, weights[name])


def test_refusals() -> None:
    with pytest.raises(RecipeError, match="an interval longer by 2"):
        methods.build("spiel", {"interval": 6, "accumulation": 5})
    with pytest.raises(RecipeError, match=r"density=0\.0"):
        methods.build("spiel", {"density": 0.0})
    methods.build("spiel", {"interval": 7, "accumulation": 5})
