"""Every optimizer trains, and an interrupted run ends with the same parameters."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tamis.errors import RecipeError
from tamis.recipe import Model, Tune
from tamis.trainer.optimizers import OPTIMIZERS
from tamis.trainer.tune import tune

OPTIONS = {"galore_adamw": {"rank": 4}, "apollo_adamw": {"rank": 4}, "sgd": {"momentum": 0.9}}


@pytest.fixture
def run(
    tiny: Model, table: Callable[..., pa.Table], sums: Any, progress: Any, tmp_path: Path
) -> Callable[..., dict[str, Any]]:
    """Train all weights of the tiny model by an optimizer, for four steps."""

    def start(name: str, folder: str, *, bar: Any = None, **given: Any) -> dict[str, Any]:
        block = {"method": "full", "optimizer": name, "optimizer_options": OPTIONS.get(name, {})}
        constant = {"scheduler": "constant", "warmup": 0, "learning_rate": 1e-3}
        (tmp_path / folder).mkdir(exist_ok=True)
        return tune(
            table(sums[:24]),
            tiny,
            Tune.model_validate({**block, **constant, "rows_per_step": 6, "save_every": 2} | given),
            seed=3,
            device="cpu",
            folder=tmp_path / folder,
            say=lambda line: None,
            progress=bar or progress(),
        )

    return start


@pytest.mark.skipif(find_spec("lomo_optim") is None, reason="lomo-optim is not installed")
def test_steps_in_the_backward_pass_need_steps_of_one_batch(run: Any) -> None:
    with pytest.raises(RecipeError, match=r"step 0 is \d+ batches: lower rows_per_step"):
        run("lomo", "many", rows_per_step=24)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_trains_and_resumes(
    run: Any, progress: Any, weights_of: Any, tmp_path: Path, name: str
) -> None:
    for package in OPTIMIZERS[name].packages:
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    report = run(name, "whole", epochs=1)
    assert report["optimizer"] == name
    assert report["history"][-1]["nll"] < report["history"][0]["nll"]
    with pytest.raises(KeyboardInterrupt):
        run(name, "cut", bar=progress(stop_at=3))
    assert run(name, "cut")["resumed_from_step"] == 2
    one, other = (weights_of(tmp_path / f / "model") for f in ("whole", "cut"))
    assert all((one[k] == other[k]).all() for k in one)
