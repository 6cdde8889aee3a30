"""Configurations for accelerate: one is used, all are read by accelerate itself."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tamis.errors import RecipeError
from tamis.recipe import Model
from tamis.storage import manifests
from tamis.trainer import launch

TAMIS = [sys.executable, "-m", "tamis"]


def run(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, **environment}
    )


@pytest.mark.parametrize("kind", launch.KINDS)
def test_accelerate_reads_every_configuration(kind: str, tmp_path: Path) -> None:
    import yaml
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    path = tmp_path / "cfg.yaml"
    path.write_text(yaml.safe_dump(launch.configuration(kind, 4)))
    found = load_config_from_file(str(path))  # refuses fields it does not know
    assert found.num_processes == 4
    parser = launch_command_parser()
    arguments = parser.parse_args(["--config_file", str(path), "-m", "tamis"])
    known = set(vars(arguments))
    for name in found.fsdp_config:
        assert name in known
    for name in found.deepspeed_config:
        assert name in known or name == "deepspeed_config_file"
    checked, _, _ = _validate_launch_command(arguments)
    wanted = {"ddp": "multi_gpu", "fsdp2": "use_fsdp"}.get(kind, "use_deepspeed")
    assert getattr(checked, wanted)
    assert checked.num_processes == 4
    if kind == "fsdp2":
        assert int(checked.fsdp_version) == 2 and checked.fsdp_state_dict_type == "FULL_STATE_DICT"
    if kind.startswith("zero"):
        assert int(checked.zero_stage) == int(kind[-1])


def test_configurations_that_make_no_sense() -> None:
    with pytest.raises(RecipeError, match="ddp, fsdp2, zero2, zero3"):
        launch.configuration("zero1", 2)
    with pytest.raises(RecipeError, match="2 or more"):
        launch.configuration("ddp", 1)


@pytest.fixture
def manifest(table: Callable[..., pa.Table], sums: Any, tmp_path: Path) -> Path:
    rows = table(sums, [0.5 + i % 3 for i in range(len(sums))])
    n = rows.num_rows
    columns = {c: rows[c] for c in ("row_id", "messages", "tools", "weight")}
    columns |= {"source": pa.array(["s"] * n), "ability": pa.nulls(n, pa.string())}
    full = pa.table({**columns, "score": pa.nulls(n, pa.float32())})
    about = {"selection": {}, "seed": 0, "heldout": {}}
    folder = tmp_path / "manifest"
    manifests.write(folder, full, None, name="m", about=about, licences=[], shard_rows=100)
    return folder


def test_accelerate_launch_tunes_in_two_processes(
    tiny: Model,
    manifest: Path,
    tmp_path: Path,
    weights_of: Callable[[Path], dict[str, Any]],
) -> None:
    config = tmp_path / "ddp.yaml"
    written = run([*TAMIS, "tune", "--launch-config", "ddp", "--out", str(config)])
    assert written.returncode == 0 and str(config) in written.stdout
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)]
    accelerate += ["--main_process_port", port, "-m", "tamis"]
    options = ("learning_rate=0.01", "rows_per_step=8", "packing=dynamic")
    tune = ["tune", "--manifest", str(manifest), "--model", str(tiny.path)]
    tune += ["--prompt-style", "chat", "--json", *(x for o in options for x in ("--option", o))]
    two = run([*accelerate, *tune, "--store", str(tmp_path / "two")])
    assert two.returncode == 0, two.stderr
    report = json.loads(two.stdout)  # one document: the second process prints nothing
    assert report["processes"] == 2
    one = json.loads(run([*TAMIS, *tune, "--store", str(tmp_path / "one")]).stdout)
    assert Path(one["model"]).parent.name == Path(report["model"]).parent.name  # the same key
    assert report["last_nll"] == pytest.approx(one["last_nll"], rel=1e-5)
    wanted, found = (weights_of(Path(r["model"])) for r in (one, report))
    assert wanted.keys() == found.keys()
    # Adam divides tiny gradients by their size, which lifts rounding up to the rate's scale.
    assert max(float((found[n] - wanted[n]).abs().max()) for n in wanted) < 1e-4
    again = run([*accelerate, *tune, "--store", str(tmp_path / "two")])
    assert json.loads(again.stdout) == report


def test_no_other_command_runs_in_several_processes() -> None:
    refused = run([*TAMIS, "methods"], RANK="0", WORLD_SIZE="2")
    assert refused.returncode == 1 and not refused.stdout
    assert "only tamis tune trains in several processes" in refused.stderr
