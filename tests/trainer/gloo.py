"""Run a snippet of Python in two processes that train together on the CPU, and break it off.

The snippet imports `until` and `Stop` from here.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


class Stop(Exception):
    """What breaks a run off."""


@contextmanager
def until(stop: int) -> Iterator[Callable[[int], None]]:
    """A progress bar that breaks the run off behind `stop` steps."""
    calls: list[int] = []

    def advance(rows: int) -> None:
        calls.append(rows)
        if len(calls) > stop:
            raise Stop

    yield advance


def two_processes(snippet: str, folder: Path, *arguments: str, seconds: float = 120) -> list[str]:
    """What each process printed, by rank; fails as soon as one of them fails.

    `snippet` runs as a file in `folder` with `arguments` as `sys.argv[1:]`, and with the variables
    in its environment that torchrun sets: joining the group is its own matter (`launch.joined`).
    """
    script = folder / "snippet.py"
    script.write_text(snippet, encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    files = [[folder / f"{name}{rank}.txt" for name in ("out", "error")] for rank in range(2)]
    running = []
    for rank, paths in enumerate(files):
        with paths[0].open("w") as out, paths[1].open("w") as error:
            command = [sys.executable, str(script), *arguments]
            environment = {**os.environ, **_variables(rank, port)}
            running.append(subprocess.Popen(command, env=environment, stdout=out, stderr=error))
    end = time.monotonic() + seconds
    try:
        while any(p.poll() is None for p in running) and not any(p.poll() for p in running):
            assert time.monotonic() < end, f"not done after {seconds} s"
            time.sleep(0.05)
    finally:
        for process in running:
            process.kill()
            process.wait()
    codes = [process.returncode for process in running]
    errors = "\n--- process 1\n".join(error.read_text() for _, error in files)
    assert codes == [0, 0], f"exit codes {codes}\n{errors}"
    return [out.read_text() for out, _ in files]


def _variables(rank: int, port: int) -> dict[str, str]:
    path = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    return {
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
