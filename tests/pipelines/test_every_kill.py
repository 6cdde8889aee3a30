"""A real `kill -9` of a run that asks for every scorer there is: no value changes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from tamis.scoring import registry
from tests.pipelines.test_every_scorer import content, lm, signals, url

pytestmark = pytest.mark.slow
__all__ = ["content", "lm", "url"]  # fixtures


def start(recipe: Path, store: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tamis", "run", str(recipe), "--until", "score"]
    return subprocess.Popen(
        [*command, "--store", str(store)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[bytes]) -> None:
    _, told = process.communicate(timeout=300)
    assert process.returncode == 0, told.decode()


def named(store: Path) -> int:
    return len(list(store.glob("signals/*/part-*.parquet")))


def test_every_scorer_goes_on_after_a_kill(content: dict[str, Any], tmp_path: Path) -> None:
    scores = {**content["scores"]}
    # A random model answers by no letters, which would end the run.
    options = {**scores["clear"]["options"], "beta": 1.0}
    scores["clear"] = {**scores["clear"], "options": options}
    assert set(scores) == set(registry.names())
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(orjson.loads(orjson.dumps({**content, "scores": scores}))))
    finish(start(recipe, tmp_path / "plain"))
    expected = signals(tmp_path / "plain")
    whole = named(tmp_path / "plain")
    assert whole >= len(scores)
    store = tmp_path / "killed"
    process = start(recipe, store)
    deadline = time.monotonic() + 240
    while named(store) <= whole // 2:
        assert process.poll() is None, "the run ended before the moment to kill it"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)
    there = signals(store)
    assert there and len(there) < len(expected)
    assert all(value == expected[name] for name, value in there.items()), "a half value"
    finish(start(recipe, store))
    assert signals(store) == expected
