"""The trainer on a GPU: the losses, the packing and the picks of a CPU, as far as bfloat16 goes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from tamis.language.load import load_model, load_tokenizer, vocabulary
from tamis.recipe import Model, Tune
from tamis.selectors.online import build
from tamis.trainer import pack
from tamis.trainer.data import Examples, prepare
from tamis.trainer.loss import terms_forward
from tamis.trainer.online import PICKS
from tamis.trainer.tune import tune

DEVICE = "cuda"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.fixture
def examples(table: Any, sums: Any, tiny: Model) -> Examples:
    return prepare(table(sums), load_tokenizer(tiny), prompt_style="chat", max_length=256)


@pytest.fixture
def train(
    tiny: Model, examples: Examples, progress: Any, tmp_path: Path
) -> Callable[..., dict[str, Any]]:
    """Three steps of the tiny model, in a folder under the test's own."""

    def start(folder: str, device: str, **options: Any) -> dict[str, Any]:
        given = {"learning_rate": 0.01, "rows_per_step": 12, "max_steps": 3, **options}
        (tmp_path / folder).mkdir()
        return tune(
            examples,
            tiny,
            Tune.model_validate(given),
            seed=3,
            device=device,
            folder=tmp_path / folder,
            say=lambda line: None,
            progress=progress(),
        )

    return start


def test_packed_rows_cost_in_float32_what_they_cost_on_a_cpu(
    tiny: Model, examples: Examples
) -> None:
    bins = pack.best_fit_decreasing(examples.lengths, 200)
    batch = pack.stacked(examples, bins)
    given = {name: batch[name] for name in ("input_ids", "labels", "position_ids", "loss_weights")}
    found = {}
    for device in ("cpu", DEVICE):
        lm = load_model(tiny, device)
        terms = terms_forward(lm, vocabulary(tiny))(**{n: t.to(device) for n, t in given.items()})
        terms["nll"].sum().backward()
        gradient = lm.get_input_embeddings().weight.grad
        found[device] = [t.detach().cpu() for t in (terms["nll"], gradient)]
    for here, there in zip(found["cpu"], found[DEVICE], strict=True):
        scale = float(here.abs().max())
        torch.testing.assert_close(there, here, rtol=1e-3, atol=1e-4 * scale)


@pytest.mark.parametrize("packing", ["best_fit", "dynamic", "none"])
def test_losses_of_a_run(train: Any, packing: str) -> None:
    here = train("cpu", "cpu", packing=packing)
    there = train("gpu", DEVICE, packing=packing)
    for one, other in zip(here["history"], there["history"], strict=True):
        assert other["tokens"] == one["tokens"]
        assert other["nll"] == pytest.approx(one["nll"], rel=0.02)
    assert there["peak_memory_bytes"] > 0


def test_scores_of_uds_are_those_of_a_cpu() -> None:
    made = torch.Generator().manual_seed(0)
    head = torch.randn(500, 32, generator=made)
    batches = [torch.randn(6, 20, 32, generator=made) for _ in range(3)]
    attention = torch.arange(20)[None] < torch.tensor([20, 5, 12, 20, 3, 9])[:, None]
    options = {"queue": 8, "vocab_dim": 16, "max_length": 32, "alpha": 0.5}
    scores: dict[str, list[dict[str, Any]]] = {"cpu": [], DEVICE: []}
    for device, found in scores.items():
        rule = build("uds", options)
        rule.start(1, head=head.to(device))  # type: ignore[call-arg]
        for hidden in batches:
            given = {"hidden": hidden.to(device), "attention": attention.to(device)}
            found.append(rule.score(given))
            rule.commit(found[-1], rule.pick(found[-1], np.ones(6, bool), 2))
    for here, there in zip(scores["cpu"], scores[DEVICE], strict=True):
        for name in ("utility", "diversity", "total"):
            np.testing.assert_allclose(there[name], here[name], rtol=1e-6)


def test_uds_picks_while_training(train: Any, tmp_path: Path) -> None:
    rule = {"method": "uds", "keep": 0.25, "options": {"max_length": 256, "vocab_dim": 16}}
    logs = []
    for name, device in (("cpu", "cpu"), ("gpu", DEVICE)):
        report = train(name, device, online=rule)
        assert report["online"]["kept_rows"] == 9
        logs.append(pq.read_table(tmp_path / name / PICKS).slice(0, 12))
    here, there = (log["utility"].to_numpy() for log in logs)
    np.testing.assert_allclose(there, here, rtol=0.02)


@pytest.mark.parametrize("rule", ["max_loss", "max_gradnorm", "kmeans", "random"])
def test_the_other_rules_run(train: Any, rule: str) -> None:
    report = train("gpu", DEVICE, online={"method": rule, "keep": 0.5})
    assert report["online"]["kept_rows"] == 18
    assert all(np.isfinite(entry["loss"]) for entry in report["history"])
