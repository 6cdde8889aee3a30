"""Training steps: however a step is cut, the parameters are those of the formula."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tamis.language.load import load_model, vocabulary
from tamis.recipe import Model, Tune
from tamis.trainer import engine, methods
from tamis.trainer.data import Examples, prepare, steps
from tamis.trainer.loss import terms_forward

RATE = 0.02


@pytest.fixture(scope="module")
def examples(tokenizer: Any, table: Callable[..., pa.Table], sums: Any) -> Examples:
    weights = [0.5 * (i % 4) for i in range(len(sums))]
    return prepare(table(sums, weights), tokenizer, prompt_style="chat", max_length=256)


@pytest.fixture(scope="module")
def groups(examples: Examples) -> list[np.ndarray]:
    return steps(len(examples), epochs=1, rows_per_step=12, max_steps=3, seed=5)


def options(**given: Any) -> Tune:
    settings = {
        "method": "full",
        "scheduler": "constant",
        "warmup": 0,
        "learning_rate": RATE,
        "optimizer": "sgd",
    }
    return Tune.model_validate({**settings, "max_grad_norm": 1e9, **given})


def train(model: Model, examples: Examples, groups: Any, chosen: Tune, folder: Path) -> Any:
    """The trained model, and the trainer."""
    lm = load_model(model, "cpu")
    lm.forward = terms_forward(lm, vocabulary(model))
    dataset = engine.Steps(examples, groups, chosen, "cpu")
    method = methods.of(chosen)
    trainer = engine.build(lm, dataset, chosen, method=method, seed=0, device="cpu", folder=folder)
    trainer.train()
    return lm, trainer


def by_hand(model: Model, examples: Examples, groups: Any) -> tuple[Any, list[float]]:
    """The same steps by the formula, one row a forward, and the loss of each step."""
    import torch

    lm = load_model(model, "cpu").train()
    losses = []
    for group in groups:
        top, bottom = torch.zeros(()), 0.0
        for i in group:
            ids, labels = (torch.from_numpy(a) for a in examples.row(i))
            logp = torch.log_softmax(lm(input_ids=ids[None]).logits[0, :-1], dim=-1)
            at = (labels[1:] != -100).nonzero()[:, 0]
            nll = -logp[at, labels[1:][at]].sum()
            top = top + float(examples.weight[i]) * nll
            bottom += float(examples.weight[i]) * len(at)
        loss = top / bottom
        lm.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in lm.parameters():
                parameter -= RATE * parameter.grad
        losses.append(loss.item())
    return lm, losses


def farthest(one: Any, other: Any, start: Any) -> float:
    """The largest difference of any parameter, in units of the largest change from the start."""
    parts = zip(one.parameters(), other.parameters(), start.parameters(), strict=True)
    pairs = [((a - b).abs().max().item(), (b - c).abs().max().item()) for a, b, c in parts]
    return max(p[0] for p in pairs) / max(p[1] for p in pairs)


@pytest.mark.parametrize(
    "cut",
    [
        {"packing": "best_fit"},
        {"packing": "best_fit", "batch_tokens": 64},
        {"packing": "best_fit", "batch_tokens": 200},
        {"packing": "dynamic", "batch_tokens": 200, "max_length": 100},
        {"packing": "none"},
        {"packing": "none", "batch_tokens": 64},
    ],
    ids=lambda cut: "-".join(f"{k}={v}" for k, v in cut.items()),
)
def test_three_steps_equal_the_formula(
    tiny: Model, examples: Examples, groups: Any, tmp_path: Path, cut: dict[str, Any]
) -> None:
    start = load_model(tiny, "cpu")
    wanted, losses = by_hand(tiny, examples, groups)
    found, trainer = train(tiny, examples, groups, options(**cut), tmp_path)
    assert farthest(found, wanted, start) < 1e-5
    logged = [e["loss"] for e in trainer.state.log_history if "nll" in e]
    assert logged == pytest.approx(losses, rel=1e-5)


def test_a_common_factor_on_all_weights_changes_nothing(
    tiny: Model, examples: Examples, groups: Any, tmp_path: Path
) -> None:
    import dataclasses

    scaled = dataclasses.replace(examples, weight=examples.weight * 8)
    one, _ = train(tiny, examples, groups, options(), tmp_path / "one")
    other, _ = train(tiny, scaled, groups, options(), tmp_path / "other")
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert (a == b).all()


def test_the_log_has_the_unweighted_loss_too(
    tiny: Model, examples: Examples, groups: Any, tmp_path: Path
) -> None:
    import dataclasses

    flat = dataclasses.replace(examples, weight=np.ones(len(examples)))
    _, trainer = train(tiny, examples, groups, options(batch_tokens=64), tmp_path / "a")
    weighted, *later = [e for e in trainer.state.log_history if "nll" in e]
    _, trainer = train(tiny, flat, groups[:1], options(batch_tokens=64), tmp_path / "b")
    plain = next(e for e in trainer.state.log_history if "nll" in e)
    assert weighted["nll"] == pytest.approx(plain["loss"], rel=1e-5)
    assert abs(weighted["loss"] - plain["loss"]) > 1e-3
    counts = [sum(int((examples.row(i)[1] != -100).sum()) for i in g) for g in groups]
    assert [e["tokens"] for e in (weighted, *later)] == counts
    assert plain["tokens"] == counts[0]


def test_schedules(tiny: Model, examples: Examples, groups: Any, tmp_path: Path) -> None:
    rates = {}
    for name, warmup in (("constant", 0.0), ("linear", 0.0), ("cosine", 0.4), ("constant", 0.4)):
        chosen = options(scheduler=name, warmup=warmup)
        _, trainer = train(tiny, examples, groups, chosen, tmp_path / f"{name}{warmup}")
        entries = [e for e in trainer.state.log_history if "nll" in e]
        rates[name, warmup] = [e["learning_rate"] / RATE for e in entries]
    assert rates["constant", 0.0] == pytest.approx([1, 1, 1])
    assert rates["linear", 0.0] == pytest.approx([1, 2 / 3, 1 / 3])
    assert rates["cosine", 0.4] == pytest.approx([0, 1, 0.5])
    assert rates["constant", 0.4] == pytest.approx([0, 1, 1])
