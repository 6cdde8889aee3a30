"""The chain under a real Prefect server: as a flow, and on a schedule."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tamis.storage.catalogue import open_store

pytestmark = [pytest.mark.flow, pytest.mark.slow]


def call(url: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.loads(answer.read())


def wait_for(what: str, ready: Any, seconds: float) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            found = ready()
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            found = None
        if found:
            return found
        time.sleep(0.5)
    raise AssertionError(f"{what} did not happen in {seconds:.0f} s")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A real Prefect server on a free port; gives the environment that points to it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    api = f"http://127.0.0.1:{port}/api"
    env = {
        **os.environ,
        "PREFECT_HOME": str(tmp_path_factory.mktemp("prefect")),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_LOGGING_LEVEL": "WARNING",
    }
    command = ["-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(
        [sys.executable, *command, "--no-ui"],
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_for("the server's start", lambda: call(f"{api}/health"), 120)
        yield {**env, "PREFECT_API_URL": api, "PREFECT_RUNNER_POLL_FREQUENCY": "2"}
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    rows = [{"instruction": f"Say {i}.", "output": f"It is {i}."} for i in range(40)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"name: nightly\nstore: {tmp_path}/store\n"
        f"sources: {{pool: {{path: {tmp_path}/rows.jsonl}}}}\n"
        "scores: {length: {}}\n"
        "select: {method: top, options: {column: length.answer_chars}, budget: {rows: 10}}\n"
    )
    return path


def complete_runs(store: Path) -> list[str]:
    if not store.is_dir():
        return []
    table = open_store(store).sql("select run_id from runs where status = 'complete'")
    found: list[str] = table.column("run_id").to_pylist()
    return found


def test_a_flow_gives_what_a_plain_run_gives(
    server: dict[str, str], recipe: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "tamis", "run", str(recipe), "--json"]
    flow = subprocess.run(
        [*command, "--prefect"], env=server, capture_output=True, text=True, timeout=200
    )
    assert flow.returncode == 0, flow.stderr
    plain = subprocess.run(
        [*command, "--store", f"{tmp_path}/other"], capture_output=True, text=True, timeout=200
    )
    assert plain.returncode == 0, plain.stderr
    stages = [json.loads(done.stdout)["stages"] for done in (flow, plain)]
    keys = [[s["keys"] for s in run] for run in stages]
    assert keys[0] == keys[1]
    states = {
        run["name"]: run["state_type"]
        for run in call(f"{server['PREFECT_API_URL']}/task_runs/filter", {})
    }
    assert {"ingest", "score", "select", "export", "report"} <= set(states)
    assert set(states.values()) == {"COMPLETED"}


def test_a_schedule_runs_the_recipe(server: dict[str, str], recipe: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tamis", "schedule", str(recipe), "--interval", "10"]
    process = subprocess.Popen(
        command,
        env=server,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    api = server["PREFECT_API_URL"]
    wanted = {
        "deployments": {"name": {"any_": ["nightly"]}},
        "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}},
    }
    try:
        runs = wait_for("a scheduled run", lambda: call(f"{api}/flow_runs/filter", wanted), 180)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)
    assert all(run["auto_scheduled"] for run in runs)
    assert complete_runs(tmp_path / "store")
    kept = open_store(tmp_path / "store").sql("select count(*) n from selections where kept")
    assert kept.to_pylist() == [{"n": 10}]


def test_a_schedule_without_a_server_says_what_to_do(recipe: Path) -> None:
    env = {k: v for k, v in os.environ.items() if k != "PREFECT_API_URL"}
    command = [sys.executable, "-m", "tamis", "schedule", str(recipe), "--cron", "0 2 * * *"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "prefect server start" in done.stderr
    assert "Traceback" not in done.stderr
