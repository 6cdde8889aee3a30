"""Columns of the log that training does not read: dimension of hidden states, new directions."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tamis.errors import RecipeError
from tamis.language.load import load_model, vocabulary
from tamis.numerics.lid import pointwise
from tamis.recipe import Model, Tune
from tamis.trainer import methods
from tamis.trainer.cloud import Cloud
from tamis.trainer.data import Examples, prepare
from tamis.trainer.intruders import Intruders, acting
from tamis.trainer.loss import terms_forward
from tamis.trainer.online.columns import Columns
from tamis.trainer.tune import tune

LOOK = {"every": 2, "points": 60, "neighbours": 16}


@pytest.fixture(scope="module")
def examples(tokenizer: Any, table: Callable[..., pa.Table], sums: Any) -> Examples:
    return prepare(table(sums), tokenizer, prompt_style="chat", max_length=256)


@pytest.fixture
def run(
    tiny: Model, table: Callable[..., pa.Table], sums: Any, progress: Any, tmp_path: Path
) -> Callable[..., dict[str, Any]]:
    def start(folder: str, *, stop_at: int | None = None, **given: Any) -> dict[str, Any]:
        settings = {"rows_per_step": 8, "save_every": 1, "warmup": 0, "learning_rate": 0.01}
        options = {"options": {"rank": 4, "dropout": 0.1}, "max_steps": 3}
        (tmp_path / folder).mkdir(exist_ok=True)
        return tune(
            table(sums),
            tiny,
            Tune.model_validate({**settings, **options, **given}),
            seed=3,
            device="cpu",
            folder=tmp_path / folder,
            say=lambda line: None,
            progress=progress(stop_at=stop_at),
            heldout=table(sums[:9]),
        )

    return start


def test_columns_come_and_training_goes_on_as_without(
    run: Any, weights_of: Any, tmp_path: Path
) -> None:
    plain, seen = run("plain"), run("seen", diagnose=LOOK, evaluate_every=1)
    names = {"lid", "lid_std", "lid_heldout", "lid_heldout_std", "intruders"}
    before, first, *others = seen["diagnosed_before"], *seen["history"]
    assert before.keys() == names and before["intruders"] == 0
    assert not names & first.keys()
    assert all(names <= entry.keys() for entry in others)  # the second, and the last
    assert 1 < before["lid"] < 32 and others[-1]["lid"] != before["lid"]
    for one, other in zip(plain["history"], seen["history"], strict=True):
        assert one == {n: v for n, v in other.items() if n not in names}
    assert "diagnosed_before" not in plain


def test_a_stopped_run_sees_the_same(run: Any, weights_of: Any, tmp_path: Path) -> None:
    whole = run("whole", diagnose=LOOK)
    with pytest.raises(KeyboardInterrupt):
        run("cut", stop_at=2, diagnose=LOOK)
    again = run("cut", diagnose=LOOK)
    assert again["resumed_from_step"] == 1
    assert again["history"] == whole["history"]
    assert again["diagnosed_before"] == whole["diagnosed_before"]


def test_the_cloud_is_of_the_same_tokens(tiny: Model, examples: Examples) -> None:
    """Against hidden states of rows one by one; for fewer points it is the beginning of them."""
    import torch

    lm = load_model(tiny, "cpu")
    cloud = Cloud(examples, texts=10, points=100, neighbours=20)
    few = Cloud(examples, texts=10, points=40, neighbours=20)
    assert (
        list(zip(few.rows[few.at], few.place, strict=True))
        == list(zip(cloud.rows[cloud.at], cloud.place, strict=True))[: len(few.at)]
    )
    assert len(cloud.rows) <= 10 and cloud.place.min() >= 1
    states = []
    for row, place in zip(cloud.rows[cloud.at], cloud.place, strict=True):
        ids = torch.from_numpy(examples.row(int(row))[0])[None]
        with torch.no_grad():
            states.append(lm.model(input_ids=ids).last_hidden_state[0, int(place)].numpy())
    points = np.stack(states)
    _, kept = np.unique(points.round(4), axis=0, return_index=True)
    want = pointwise(points[np.sort(kept)[:100]], 20)
    lm.forward = terms_forward(lm, vocabulary(tiny))
    found = cloud.dimension(Columns(lm, lm, examples, "cpu", 0))
    assert found is not None
    assert found == pytest.approx((np.nanmean(want), np.nanstd(want)), rel=1e-3)


def test_too_few_tokens_are_refused() -> None:
    ids = np.arange(20, dtype=np.int32)
    few = Examples(ids, ids > 5, np.array([0, 20]), np.ones(1), ["a"], {}, 0)
    with pytest.raises(RecipeError, match="set lid: false"):
        Cloud(few, texts=5, points=100, neighbours=10)


def layer_of(weight: np.ndarray) -> Any:
    import torch

    model = torch.nn.Module()
    model.layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=True)
    model.layer.weight.data = torch.from_numpy(weight.astype(np.float32))
    model.get_output_embeddings = lambda: None
    return model


def test_a_direction_of_none_before_is_an_intruder() -> None:
    import torch

    model = layer_of(np.diag(np.arange(16.0, 0, -1)))
    counted = Intruders(model)
    assert counted.mean(model) == 0
    with torch.no_grad():
        model.layer.weight *= 3
        assert counted.mean(model) == 0
        model.layer.weight[:, 0] += 500 / 4  # cosine 1/4 with every direction
    assert counted.mean(model) == 1


def test_intruders_are_those_that_peft_mitigates(tiny: Model) -> None:
    import torch
    from peft.tuners.lora.intruders import reduce_intruder_dimension

    torch.manual_seed(0)
    lm = load_model(tiny, "cpu").requires_grad_(False)
    counted = Intruders(lm)
    method = methods.build("lora", {"rank": 4})
    trained = method.prepare(lm, methods.Context(8, 0, 1e-3, 3, "cpu", lambda r, a: iter([]), 0))
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            if ".lora_B." in name:
                parameter += 0.5 * torch.randn_like(parameter)
    mean, lines = counted.mean(lm), []
    reduce_intruder_dimension(trained, logging_sink=lines.append)
    told = [line for line in lines if ": " in line]
    assert len(told) == len(counted.before)
    assert mean * len(told) == sum(int(n) for n in re.findall(r"Intruders: (\d+)", str(told))) > 5


OPTIONS: dict[str, dict[str, Any]] = {
    "full": {},
    "s2ft": {"down_proj": 0.5, "o_proj": 0.5, "up_proj": 0.5},
    "lora_xs": {"rank": 4},
    "lift": {"rank": 4, "filter_rank": 8},
    "vera": {"rank": 8},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_weights_are_taken_as_they_act(tiny: Model, name: str) -> None:
    """The layer's own product, whatever a method puts beside it."""
    import torch

    lm = load_model(tiny, "cpu").requires_grad_(False)
    method = methods.build(name, OPTIONS[name])
    trained = method.prepare(lm, methods.Context(8, 0, 1e-3, 3, "cpu", lambda r, a: iter([]), 0))
    with torch.no_grad():
        for parameter in trained.parameters():
            if parameter.requires_grad:
                parameter += 0.1
        method.step_end(0)
        layer = lm.get_submodule("model.layers.1.mlp.down_proj")
        given = torch.randn(3, layer.in_features)
        torch.testing.assert_close(given @ acting(layer).T, layer(given), rtol=1e-4, atol=1e-4)
