"""A real `kill -9` of `tamis run`, at several moments, changes no id and no value."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

# What tells the time or the machine, and so differs between two equal runs.


@pytest.fixture(scope="module")
def recipe(tiny_lm: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kill")
    words = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "one", "dog", "run", "far"]
    rows = [
        {"instruction": f"say {words[i % 11]} {i}", "output": " ".join(words[: i % 9 + 1])}
        for i in range(120)
    ]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "held.jsonl").write_text("\n".join(map(json.dumps, rows[:12])))
    path = folder / "recipe.yaml"
    path.write_text(
        f"""
name: kill
sources: {{pool: {{path: {folder}/rows.jsonl}}}}
models: {{lm: {{path: {tiny_lm()}, prompt_style: plain}}}}
scores: {{length: {{}}, nll: {{model: lm}}, ifd: {{model: lm}}}}
select: {{method: top, options: {{column: nll.mean}}, budget: {{rows: 40}}}}
tune:
  {{model: lm, epochs: 2, rows_per_step: 4, options: {{rank: 2}}, save_every: 3, max_length: 48}}
evaluate: {{path: {folder}/held.jsonl, max_new_tokens: 4, bootstrap: 100}}
"""
    )
    return path


def start(recipe: Path, store: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "tamis", "run", str(recipe), "--store", str(store)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def finish(recipe: Path, store: Path) -> None:
    process = start(recipe, store)
    _, told = process.communicate(timeout=300)
    assert process.returncode == 0, told.decode()


def wait_until(process: subprocess.Popen[bytes], reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 240
    while not reached():
        assert process.poll() is None, "the run ended before the moment to kill it"
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(scope="module")
def undisturbed(
    recipe: Path, contents: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    store = tmp_path_factory.mktemp("plain") / "store"
    finish(recipe, store)
    return contents(store, "resumed_from_step")


# Each pattern appears in the store while the stage before it is over and its own is under way.
MOMENTS = {
    "scoring": "signals/*/part-*.parquet",
    "tuning": "models/*.partial/checkpoints/checkpoint-*/*",
    "evaluating": "models/*/artifact.json",
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_and_started_again(
    recipe: Path,
    contents: Callable[..., dict[str, Any]],
    undisturbed: dict[str, Any],
    tmp_path: Path,
    moment: str,
) -> None:
    store = tmp_path / "store"
    process = start(recipe, store)
    wait_until(process, lambda: any(store.glob(MOMENTS[moment])))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)
    finish(recipe, store)
    found = contents(store, "resumed_from_step")
    assert found.keys() == undisturbed.keys()
    for name, value in undisturbed.items():
        assert found[name] == value, name


def test_two_runs_at_once_both_end_right(
    recipe: Path,
    contents: Callable[..., dict[str, Any]],
    undisturbed: dict[str, Any],
    tmp_path: Path,
) -> None:
    store = tmp_path / "store"
    first, second = start(recipe, store), start(recipe, store)
    told = [p.communicate(timeout=300)[1].decode() for p in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], told
    assert "waiting: another process" in "".join(told)
    assert contents(store, "resumed_from_step") == undisturbed
