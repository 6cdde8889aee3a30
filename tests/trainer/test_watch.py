"""Held-out rows while a model is trained: exact sums, and the best model is what is left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tamis.errors import RecipeError
from tamis.language.load import load_model, vocabulary
from tamis.recipe import Model, Tune
from tamis.trainer.data import prepare
from tamis.trainer.evaluate import evaluate, metrics
from tamis.trainer.loss import terms_forward
from tamis.trainer.tune import tune
from tamis.trainer.watch import heldout_nll


@pytest.fixture
def heldout(table: Callable[..., pa.Table]) -> pa.Table:
    """Fourteen rows of very different lengths, of which packing makes uneven batches; their answers
    are unlike those of the sums, so that training forgets them."""
    words = ["no", "three two one zero?", "what", "9 8 7 6 5 4 3 2 1 0", "yes and no, yes and no"]
    rows = [
        [
            {"role": "user", "content": "what? " * (1 + i % 5)},
            {"role": "assistant", "content": words[i % 5] * (1 + i % 3)},
        ]
        for i in range(14)
    ]
    return table(rows)


@contextmanager
def unseen(title: str, total: int) -> Iterator[Callable[[int], None]]:
    yield lambda rows: None


def nll_of(rows: pa.Table, model: Model) -> float:
    found = evaluate(rows, model, max_new_tokens=0, device="cpu", progress=unseen)
    return float(metrics(found, resamples=10, seed=0)["nll"]["value"])


@pytest.mark.parametrize("packing", ["best_fit", "dynamic", "none"])
def test_the_loss_is_one_sum_through_another(
    packing: str, tiny: Model, tokenizer: Any, heldout: pa.Table
) -> None:
    lm = load_model(tiny, "cpu").train()
    lm.forward = terms_forward(lm, vocabulary(tiny))
    weighted = heldout.set_column(
        heldout.schema.get_field_index("weight"),
        "weight",
        pa.array([0.1 + i for i in range(heldout.num_rows)], pa.float32()),
    )
    examples = prepare(weighted, tokenizer, prompt_style="chat", max_length=256)
    options = Tune.model_validate({"packing": packing, "batch_tokens": 128})
    assert heldout_nll(lm, examples, options, "cpu") == pytest.approx(
        nll_of(heldout, tiny), rel=1e-6
    )
    assert lm.training


SETTINGS = {"rows_per_step": 4, "batch_tokens": 128, "save_every": 2, "scheduler": "constant"}
SETTINGS |= {"learning_rate": 0.02, "warmup": 0, "max_steps": 9, "options": {"rank": 4}}


def start(
    folder: Path, rows: pa.Table, model: Model, heldout: pa.Table | None, bar: Any, **given: Any
) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    return tune(
        rows,
        model,
        Tune.model_validate({**SETTINGS, **given}),
        seed=3,
        device="cpu",
        folder=folder,
        say=lambda line: None,
        progress=bar,
        heldout=heldout,
    )


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_best_model_is_left(
    method: str,
    tiny: Model,
    table: Callable[..., pa.Table],
    sums: Any,
    heldout: pa.Table,
    progress: Any,
    tmp_path: Path,
) -> None:
    rows = table(sums[:26])
    given = {"evaluate_every": 2, "method": method, "epochs": 3}
    given |= {"options": {}} if method == "full" else {}
    report = start(tmp_path / "a", rows, tiny, heldout, progress(), **given)
    seen = {entry["step"]: entry["nll"] for entry in report["heldout_history"]}
    assert list(seen) == [2, 4, 6, 8, 9]
    assert report["heldout_nll"] == min(seen.values()) == seen[report["best_step"]]
    assert report["best_step"] < 9  # what is learnt is not what is asked
    folder = str(tmp_path / "a" / "model")
    place = {"adapter": folder} if method == "lora" else {"path": folder}
    left = nll_of(heldout, tiny.model_copy(update=place))
    assert left == pytest.approx(report["heldout_nll"], rel=1e-5)


def test_looking_changes_nothing_and_a_run_goes_on_with_its_best(
    tiny: Model,
    table: Callable[..., pa.Table],
    sums: Any,
    heldout: pa.Table,
    progress: Any,
    tmp_path: Path,
) -> None:
    rows = table(sums[:26])
    given = {"evaluate_every": 1, "options": {"rank": 4, "dropout": 0.2}, "epochs": 3}
    whole = start(tmp_path / "whole", rows, tiny, heldout, progress(), **given)
    stop = whole["best_step"] + 2
    assert stop < 9
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path / "cut", rows, tiny, heldout, progress(stop_at=stop), **given)
    again = start(tmp_path / "cut", rows, tiny, heldout, progress(), **given)
    assert again["resumed_from_step"] > 0
    for name in ("heldout_history", "best_step", "heldout_nll", "history"):
        assert again[name] == whole[name]
    one, other = (
        (tmp_path / name / "model" / "adapter_model.safetensors").read_bytes()
        for name in ("whole", "cut")
    )
    assert one == other
    del given["evaluate_every"]
    plain = start(tmp_path / "plain", rows, tiny, None, progress(), **given)
    assert plain["history"] == whole["history"] and "best_step" not in plain


def test_nothing_to_look_at_is_an_error(
    tiny: Model, table: Callable[..., pa.Table], sums: Any, progress: Any, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match="needs held-out rows"):
        start(tmp_path / "a", table(sums[:9]), tiny, None, progress(), evaluate_every=2)
