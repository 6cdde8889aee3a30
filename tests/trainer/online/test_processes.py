"""Two processes pick together what one picks alone, remember the same, and one keeps the log."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tamis.errors import RecipeError
from tamis.recipe import Model, Tune
from tamis.trainer import launch, online
from tamis.trainer.job import check

# Runs of tune under some rules; the run "cut" is broken off behind step 3 and goes on.
RUNS = """
import hashlib, json, sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from gloo import Stop, until

from tamis.recipe import Model, Tune
from tamis.trainer import launch, online
from tamis.trainer.given import Given
from tamis.trainer.tune import tune

made = []
begin = online.picking
online.picking = lambda *given, **named: made.append(begin(*given, **named)) or made[-1]


def start(path, folder, name, options, stop=99):
    launch.unseen = lambda title, total: until(stop)
    rows = pq.read_table(f"{folder}/rows.parquet")
    (Path(folder) / name).mkdir(exist_ok=True)
    report = tune(rows, Model(path=path, prompt_style="chat"), Tune.model_validate(options), seed=3,
                  device="cpu", folder=Path(folder) / name, say=lambda line: None,
                  progress=lambda title, total: until(stop),
                  given=Given(rows.slice(0, 5), Model(path=path, prompt_style="chat")))
    digest = hashlib.sha256()
    for key, value in sorted(made[-1].rule.state_dict().items()):
        digest.update(f"{key} {np.asarray(value).tobytes().hex()}".encode())
    return [digest.hexdigest(), len(made[-1].picks._waiting), report["online"]["kept_rows"]]


if __name__ == "__main__":
    path, chosen, folder = sys.argv[1:]
    chosen = json.loads(chosen)
    with launch.joined("cpu"):
        told = {name: start(path, folder, name, options) for name, options in chosen.items()}
        try:
            start(path, folder, "cut", chosen["uds"], 3)
        except Stop:
            # What a process leaves that is killed between the log and the end of its checkpoint.
            launch.wait()
            if launch.rank() == 0:
                left = next(Path(folder, "cut", "checkpoints").glob("picks-*2.parquet"))
                (left.parent / "picks-000000003.parquet").write_bytes(left.read_bytes())
            launch.wait()
            told["cut"] = start(path, folder, "cut", chosen["uds"])
    print(json.dumps(told))
"""
UDS = {"alpha": 0.23, "queue": 16, "vocab_dim": 16, "max_length": 256}
RULES: dict[str, dict[str, Any]] = {
    "uds": {"method": "uds", "keep": 0.5, "group": 4, "options": UDS},
    "bds": {"method": "bds", "keep": 0.5, "safe": "trusted.jsonl"},
    "kmeans": {"method": "kmeans", "keep": 0.5},
}


def test_two_processes_pick_what_one_picks(
    tiny: Model,
    table: Callable[..., pa.Table],
    sums: Any,
    tmp_path: Path,
    two_processes: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # What the snippet puts in their place here is taken out again.
    monkeypatch.setattr(online, "picking", online.picking)
    monkeypatch.setattr(launch, "unseen", launch.unseen)
    base = {"options": {"rank": 4}, "learning_rate": 0.01, "rows_per_step": 8, "save_every": 2}
    count = {"uds": 4, "bds": 2, "kmeans": 2}
    chosen = {n: {**base, "online": rule, "max_steps": count[n]} for n, rule in RULES.items()}
    folders = {way: tmp_path / way for way in ("one", "two")}
    for folder in folders.values():
        folder.mkdir()
        pq.write_table(table(sums), folder / "rows.parquet")
    given = [str(tiny.path), json.dumps(chosen)]
    told = [
        json.loads(t)
        for t in two_processes(RUNS, folders["two"], *given, str(folders["two"]), seconds=300)
    ]
    alone: dict[str, Any] = {"__name__": "alone"}
    exec(RUNS, alone)
    for name, rule in RULES.items():
        alone["start"](str(tiny.path), str(folders["one"]), name, chosen[name])
        log = {w: pq.read_table(f / name / "picks.parquet") for w, f in folders.items()}
        for column in ("step", "row_id", "kept"):
            assert log["two"][column].equals(log["one"][column]), name
        kept = count[name] * 8 * rule["keep"]
        # The same state, and the log on the first alone.
        assert [t[name][1:] for t in told] == [[0, kept], [0, kept]]
        assert told[0][name][0] == told[1][name][0]
    cut, whole = (pq.read_table(folders["two"] / n / "picks.parquet") for n in ("cut", "uds"))
    assert cut.equals(whole)
    assert told[0]["cut"] == told[1]["cut"] == told[0]["uds"]


def test_bds_has_no_groups() -> None:
    options = {"online": {**RULES["bds"], "group": 4}}
    with pytest.raises(RecipeError, match="leave group out"):
        check(Tune.model_validate(options), "cpu")


def test_weights_that_are_cut_among_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process scores its own rows: a part of the weights is not enough, and all at once they
    would wait for each other."""
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    check(Tune.model_validate({"online": {"method": "random"}}), "cpu")
    with pytest.raises(RecipeError, match="online: uds needs whole weights"):
        check(Tune.model_validate({"online": RULES["uds"]}), "cpu")
