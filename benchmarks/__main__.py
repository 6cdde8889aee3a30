"""Run every benchmark, one after another, and record each result under benchmarks/results/.

`python -m benchmarks [NAME...]`. A benchmark is a script that measures a rival or a floor in the
same run and prints one JSON line; `--out FILE` records it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main(names: list[str]) -> int:
    """Run the named benchmarks, or all; returns how many failed."""
    scripts = {p.stem: p for p in sorted(HERE.glob("*.py")) if not p.stem.startswith("_")}
    scripts.pop("machine", None)
    failed = 0
    for name in names or scripts:
        if name not in scripts:
            print(f"there is no benchmark {name!r}; there are {', '.join(scripts)}")
            return 1
        print(f"== {name}", flush=True)
        out = HERE / "results" / f"{name}.json"
        command = [sys.executable, "-m", f"benchmarks.{name}", "--out", str(out)]
        failed += subprocess.run(command, cwd=HERE.parent, check=False).returncode != 0
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
