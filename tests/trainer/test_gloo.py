"""Two processes train together: the parameters are those of one process, to rounding."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tamis.recipe import Model

# Three steps of SGD for each way to cut them; the last step has fewer rows than processes.
STEPS = """
import json, sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from safetensors.torch import save_file

from tamis.language.load import load_model, load_tokenizer, vocabulary
from tamis.recipe import Model, Tune
from tamis.trainer import engine, launch, methods
from tamis.trainer.data import prepare
from tamis.trainer.loss import terms_forward


def train(path, given, folder, out):
    model = Model(path=path, prompt_style="chat")
    rows = pq.read_table(f"{folder}/rows.parquet")
    examples = prepare(rows, load_tokenizer(model), prompt_style="chat", max_length=256)
    groups = [np.arange(12), np.arange(12, 25), np.array([30])]
    options = Tune.model_validate(given)
    lm = load_model(model, "cpu")
    lm.forward = terms_forward(lm, vocabulary(model))
    dataset = engine.Steps(examples, groups, options, "cpu")
    trainer = engine.build(lm, dataset, options, method=methods.of(options), seed=0, device="cpu",
                           folder=Path(folder) / "checkpoints")
    trainer.train()
    if launch.rank() == 0:
        save_file({n: p.detach().clone() for n, p in lm.named_parameters()}, f"{folder}/{out}")
    return [entry for entry in trainer.state.log_history if "nll" in entry]


if __name__ == "__main__":
    path, cuts, folder = sys.argv[1:]
    with launch.joined("cpu"):
        logs = [train(path, c, folder, f"two-{i}") for i, c in enumerate(json.loads(cuts))]
    print(json.dumps(logs))
"""
SGD = {"method": "full", "optimizer": "sgd", "scheduler": "constant", "warmup": 0}
SGD |= {"learning_rate": 0.02, "max_grad_norm": 1e9}
CUTS = [
    {**SGD, "packing": "best_fit", "batch_tokens": 64},
    {**SGD, "packing": "dynamic", "batch_tokens": 256, "max_length": 100},
    {**SGD, "packing": "none", "batch_tokens": 100},
]


def test_two_processes_train_what_one_trains(
    tiny: Model,
    table: Callable[..., pa.Table],
    sums: Any,
    tmp_path: Path,
    two_processes: Callable[..., list[str]],
) -> None:
    from safetensors.numpy import load_file

    rows = table(sums, [0.5 * (i % 4) for i in range(len(sums))])
    pq.write_table(rows, tmp_path / "rows.parquet")
    told = two_processes(STEPS, tmp_path, str(tiny.path), json.dumps(CUTS), str(tmp_path))
    ours: dict[str, Any] = {"__name__": "alone"}
    exec(STEPS, ours)
    for i, cut in enumerate(CUTS):
        log = ours["train"](str(tiny.path), cut, str(tmp_path), "one")
        one, two = load_file(tmp_path / "one"), load_file(tmp_path / f"two-{i}")
        assert max(np.abs(two[n] - one[n]).max() for n in one) < 3e-7
        for rank in range(2):
            for wanted, found in zip(log, json.loads(told[rank])[i], strict=True):
                assert found["tokens"] == wanted["tokens"]
                for name in ("loss", "nll", "grad_norm"):
                    assert found[name] == pytest.approx(wanted[name], rel=1e-5)


# The whole of tune in two processes; in the folder "cut" it is broken off and goes on.
TUNE = """
import json, sys
from pathlib import Path

import pyarrow.parquet as pq
from gloo import Stop, until

from tamis.recipe import Model, Tune
from tamis.trainer import launch
from tamis.trainer.tune import tune


path, options, folder = sys.argv[1:]
rows = pq.read_table(f"{folder}/rows.parquet")


def start(out, stop, say=print):
    (Path(folder) / out).mkdir(exist_ok=True)
    return tune(rows, Model(path=path, prompt_style="chat"), Tune.model_validate_json(options),
                seed=3, device="cpu", folder=Path(folder) / out, say=say,
                progress=lambda title, total: until(stop))


with launch.joined("cpu"):
    start("whole", 99)
    # Every process is broken off behind the same step, as a kill of all of them does.
    if launch.rank() > 0:
        launch.unseen = lambda title, total: until(3)
    try:
        start("cut", 3)
    except Stop:
        launch.unseen = lambda title, total: until(99)
        report = start("cut", 99)
        print(json.dumps([report["resumed_from_step"], report["processes"], launch.rank()]))
"""


def test_tune_in_two_processes_is_written_once_and_goes_on(
    tiny: Model,
    table: Callable[..., pa.Table],
    sums: Any,
    tmp_path: Path,
    two_processes: Callable[..., list[str]],
    weights_of: Callable[[Path], dict[str, Any]],
) -> None:
    pq.write_table(table(sums), tmp_path / "rows.parquet")
    options = {"options": {"rank": 4, "dropout": 0.1}, "learning_rate": 0.01, "save_every": 2}
    options |= {"rows_per_step": 8, "batch_tokens": 128}
    told = two_processes(TUNE, tmp_path, str(tiny.path), json.dumps(options), str(tmp_path))
    first, second = (text.splitlines() for text in told)
    assert json.loads(first[-1]) == [2, 2, 0]
    assert second == ["[2, 2, 1]"]  # the second process tells nothing else
    assert "going on from checkpoint 2 of 5 steps" in first
    whole, cut = (weights_of(tmp_path / name / "model") for name in ("whole", "cut"))
    assert whole.keys() == cut.keys()
    assert all((whole[name] == cut[name]).all() for name in whole)
    assert not (tmp_path / "cut" / "checkpoints").exists()


# Runs whose own choices hang on what all processes saw in a step.
CHOICES = """
import json, sys
from pathlib import Path

import pyarrow.parquet as pq

from tamis.recipe import Model, Tune
from tamis.trainer import launch
from tamis.trainer.given import Given
from tamis.trainer.tune import tune


def train(path, name, block, folder):
    (Path(folder) / name).mkdir(exist_ok=True)
    model = Model(path=path, prompt_style="chat")
    return tune(pq.read_table(f"{folder}/rows.parquet"), model, Tune.model_validate(block), seed=3,
                device="cpu", folder=Path(folder) / name, say=launch.silent,
                progress=launch.unseen, given=Given(teacher=Model(**json.loads(sys.argv[4]))))


if __name__ == "__main__":
    path, blocks, folder, _ = sys.argv[1:]
    with launch.joined("cpu"):
        told = {n: train(path, f"two-{n}", b, folder) for n, b in json.loads(blocks).items()}
    print(json.dumps({n: [r["history"], r["method_facts"]] for n, r in told.items()}))
"""
SPIEL = {"density": 0.05, "interval": 3, "accumulation": 1, "rate": 0.9}
CHOOSING = {
    "taid": {**SGD, "objective": {"method": "taid", "options": {"alpha": 0.5, "beta": 0.5}}},
    "spiel": {"method": "spiel", "options": SPIEL, "learning_rate": 0.003, "warmup": 0},
}


def another(model: Model, folder: Path) -> Model:
    """The same model with other weights."""
    import torch
    from transformers import AutoModelForCausalLM

    shutil.copytree(str(model.path), folder)
    lm = AutoModelForCausalLM.from_pretrained(folder)
    torch.manual_seed(5)
    for parameter in lm.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    lm.save_pretrained(folder)
    return Model(path=str(folder), prompt_style="plain")


def test_two_processes_choose_what_one_chooses(
    tiny: Model,
    table: Callable[..., pa.Table],
    sums: Any,
    tmp_path: Path,
    two_processes: Callable[..., list[str]],
    weights_of: Callable[[Path], dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """TAID's t, by the losses of whole steps; SpIEL's entries, by their gradients; the last step
    has one row, so that a process has none."""
    pq.write_table(table(sums[:17], [0.5 + i % 3 for i in range(17)]), tmp_path / "rows.parquet")
    shared = {"rows_per_step": 4, "batch_tokens": 64, "epochs": 1}
    blocks = {name: {**block, **shared} for name, block in CHOOSING.items()}
    teacher = another(tiny, tmp_path / "teacher").model_dump_json()
    given = (str(tiny.path), json.dumps(blocks), str(tmp_path), teacher)
    two = [json.loads(out) for out in two_processes(CHOICES, tmp_path, *given)]
    monkeypatch.setattr("sys.argv", ["snippet", *given])
    ours: dict[str, Any] = {"__name__": "alone"}
    exec(CHOICES, ours)
    for name, block in blocks.items():
        alone = ours["train"](str(tiny.path), f"one-{name}", block, str(tmp_path))
        assert alone["steps"] == 5
        for told in two:
            history, facts = told[name]
            assert facts == alone["method_facts"]
            for wanted, found in zip(alone["history"], history, strict=True):
                assert found.keys() == wanted.keys()
                for figure in ("loss", "nll", "t"):
                    known = wanted.get(figure, 0.0)
                    assert found.get(figure, 0.0) == pytest.approx(known, rel=1e-4, abs=1e-7)
        one, other = (weights_of(tmp_path / f"{n}-{name}" / "model") for n in ("one", "two"))
        assert max(float((one[n] - other[n]).abs().max()) for n in one) < 1e-5
    assert [r["step"] for r in alone["method_facts"]["replaced"]] == [1, 4]
