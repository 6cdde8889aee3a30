"""Run a snippet of Python in two processes that train together on the CPU."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path


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
    told = [folder / f"rank{rank}.txt" for rank in range(2)]
    running = []
    for rank, path in enumerate(told):
        with path.open("w") as out:
            command = [sys.executable, str(script), *arguments]
            environment = {**os.environ, **_variables(rank, port)}
            running.append(subprocess.Popen(command, env=environment, stdout=out, stderr=out))
    end = time.monotonic() + seconds
    try:
        while any(p.poll() is None for p in running) and not any(p.poll() for p in running):
            assert time.monotonic() < end, f"not done after {seconds} s"
            time.sleep(0.05)
    finally:
        for process in running:
            process.kill()
            process.wait()
    texts = [path.read_text() for path in told]
    codes = [process.returncode for process in running]
    assert codes == [0, 0], f"exit codes {codes}\n{texts[0]}\n--- process 1\n{texts[1]}"
    return texts


def _variables(rank: int, port: int) -> dict[str, str]:
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
