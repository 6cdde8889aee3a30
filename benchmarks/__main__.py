"""Run every benchmark, one after another, record each result, and print one table of them all.

`python -m benchmarks [NAME...]`; `--table` only prints what is recorded. A benchmark is a script
that measures a rival or a floor in the same run and prints one JSON line; `--out FILE` records it
under benchmarks/results/. `--gpu` runs those that have a figure for a GPU, on the GPU, and records
them under benchmarks/results/gpu/; they need neither prefect nor faiss.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent
# What has a figure for a GPU.
GPU = (
    "scoring_rate",
    "gradients",
    "uds_utility",
    "uds_training",
    "packing",
    "throughput",
    "memory",
)


def main(arguments: list[str]) -> int:
    """Run the named benchmarks, or all; returns how many failed."""
    names = [name for name in arguments if not name.startswith("--")]
    gpu = "--gpu" in arguments
    scripts = [p.stem for p in sorted(HERE.glob("*.py")) if not p.stem.startswith("_")]
    scripts = [name for name in scripts if name in GPU or not gpu]
    unknown = sorted(set(names) - set(scripts))
    if unknown:
        print(f"there is no benchmark {unknown[0]!r}; there are {', '.join(scripts)}")
        return 1
    if gpu and not has_gpu():
        print(f"{', '.join(names or scripts)}: not run, there is no CUDA device")
        return 0
    failed = []
    for name in (names or scripts) if "--table" not in arguments else ():
        print(f"== {name}", flush=True)
        command = [
            sys.executable,
            "-m",
            f"benchmarks.{name}",
            "--out",
            str(recorded(name, gpu=gpu)),
        ]
        command += ["--device", "cuda"] if gpu else []
        if subprocess.run(command, cwd=HERE.parent, check=False).returncode != 0:
            failed.append(name)
    results = [
        json.loads(recorded(name, gpu=gpu).read_text(encoding="utf-8"))
        for name in names or scripts
        if recorded(name, gpu=gpu).is_file()
    ]
    Console(width=None if sys.stdout.isatty() else 160).print(table(results))
    for name in failed:
        print(f"{name} failed; what the table says of it was recorded before")
    return len(failed)


def recorded(name: str, *, gpu: bool = False) -> Path:
    """Where the result of a benchmark lies."""
    return HERE / "results" / ("gpu" if gpu else "") / f"{name}.json"


def has_gpu() -> bool:
    """Whether torch sees a CUDA device."""
    import torch

    return torch.cuda.is_available()


def table(results: list[dict[str, Any]]) -> Table:
    """Ours, the rival and the ratio of every comparison, its aim, and the load it ran under."""
    drawn = Table()
    for column in ("what", "ours", "rival", "", "ratio", "aim", "met", "load"):
        drawn.add_column(column, justify="left" if column in ("what", "rival") else "right")
    for result in results:
        for line in result.get("lines", ()):
            drawn.add_row(
                line["what"],
                f"{line['ours']:,.4g} {line['unit']}",
                line["against"],
                f"{line['rival']:,.4g} {line['unit']}",
                f"{line['ratio']:g}",
                line["aim"],
                "yes" if line["met"] else "no",
                f"{result['load'][0]:g}",
            )
    return drawn


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
