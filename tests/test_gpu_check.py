"""`make gpu-check` needs neither prefect nor faiss, and says what it did not run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Imports all that gpu-check runs, where prefect and faiss are not installed.
CHECK = """
import importlib, sys

import pytest


class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("prefect", "faiss"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Absent())
import benchmarks.__main__ as benchmarks

for name in benchmarks.GPU:
    importlib.import_module(f"benchmarks.{name}")
benchmarks.has_gpu = lambda: False
assert benchmarks.main(["--gpu"]) == 0
assert pytest.main(["--collect-only", "-q", "-m", "gpu", *sys.argv[1:]]) == 0
"""


def test_what_a_gpu_is_asked_for_needs_neither_prefect_nor_faiss() -> None:
    marked = [p for p in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in p.read_text()]
    files = [str(p) for p in marked if p != Path(__file__)]
    assert len(files) >= 3
    done = subprocess.run(
        [sys.executable, "-c", CHECK, *files], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("packing", "scoring_rate", "throughput", "uds_training", "uds_utility"):
        assert name in done.stdout.splitlines()[0]
    assert "not run, there is no CUDA device" in done.stdout.splitlines()[0]
    assert "test_uds_picks_while_training" in done.stdout
