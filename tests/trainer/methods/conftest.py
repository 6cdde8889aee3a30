"""Short runs of a method on the tiny model, whole or by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tamis.language.load import load_model, vocabulary
from tamis.recipe import Model, Tune
from tamis.trainer import methods
from tamis.trainer.data import Examples, prepare
from tamis.trainer.loss import terms_forward
from tamis.trainer.methods import Context, Method
from tamis.trainer.pack import padded
from tamis.trainer.tune import tune


@pytest.fixture(scope="session")
def dozen(tokenizer: Any, table: Callable[..., pa.Table], sums: Any) -> Examples:
    return prepare(table(sums[:12]), tokenizer, prompt_style="chat", max_length=256)


@pytest.fixture
def tuned(
    dozen: Examples, tiny: Model, progress: Any, tmp_path: Path, weights_of: Any
) -> Callable[..., tuple[dict[str, Any], dict[str, Any]]]:
    """Tune the tiny model for three steps: the tensors that are saved, and the report."""

    def run(
        name: str, options: dict[str, Any] | None = None, folder: str = "run", **given: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        block = {"method": name, "options": options or {}, "rows_per_step": 4, "warmup": 0, **given}
        (tmp_path / folder).mkdir()
        report = tune(
            dozen,
            tiny,
            Tune.model_validate(block),
            seed=3,
            device="cpu",
            folder=tmp_path / folder,
            say=lambda line: None,
            progress=progress(),
        )
        return weights_of(tmp_path / folder / "model"), report

    return run


@dataclass
class ByHand:
    """A method upon a model, stepped by the test."""

    lm: Any
    trained: Any
    method: Method
    batch: dict[str, Any]

    def step(self, number: int, optimizer: Any) -> None:
        self.method.step_begin(number, optimizer)
        self.loss().backward()
        optimizer.step()
        self.method.step_end(number)
        optimizer.zero_grad()

    def loss(self) -> Any:
        return self.lm(**self.batch)["nll"].mean()


@pytest.fixture
def by_hand(tiny: Model, dozen: Examples) -> Callable[..., ByHand]:
    """A method upon the tiny model, or its class and options in its place."""

    def start(given: str | Method, *, warmup: int = 0, **options: Any) -> ByHand:
        lm = load_model(tiny, "cpu").requires_grad_(False)
        lm.forward = terms_forward(lm, vocabulary(tiny))

        def batches(rows: int, at_once: int) -> Iterator[dict[str, Any]]:
            for i in range(0, rows, at_once):
                yield only(padded(dozen, np.arange(i, min(i + at_once, rows))))

        method = methods.build(given, options) if isinstance(given, str) else given
        trained = method.prepare(lm, Context(8, warmup, 1e-3, 3, "cpu", batches, 256))
        return ByHand(lm, trained, method, only(padded(dozen, np.arange(6))))

    return start


def only(batch: dict[str, Any]) -> dict[str, Any]:
    return {name: batch[name] for name in ("input_ids", "labels", "loss_weights")}
