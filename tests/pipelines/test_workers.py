"""Processes that work for another end with it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

HERE = """
import os, sys, time
from tamis.pipelines.workers import processes

def begin(name):
    os.environ["GIVEN"] = name

def told():
    return os.getpid(), os.environ["GIVEN"]

if __name__ == "__main__":
    with processes(2, begin, ("a name",)) as pool:
        print(*pool.submit(told).result(), flush=True)
        if sys.argv[1] == "stay":
            pool.submit(time.sleep, 300).result()
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(HERE, encoding="utf-8")
    return path


def test_workers_begin_as_told_and_the_pool_ends(program: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(program), "go"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    number, name = done.stdout.strip().split(" ", 1)
    assert name == "a name"
    assert not psutil.pid_exists(int(number))


def test_workers_end_when_their_parent_is_killed(program: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, str(program), "stay"], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    parent.stdout.readline()
    workers = psutil.Process(parent.pid).children(recursive=True)
    assert workers
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 60
    while any(w.is_running() and w.status() != psutil.STATUS_ZOMBIE for w in workers):
        assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.05)
