"""Run every benchmark, one after another, record each result, and print one table of them all.

`python -m benchmarks [NAME...]`. A benchmark is a script that measures a rival or a floor in the
same run and prints one JSON line; `--out FILE` records it under benchmarks/results/.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main(names: list[str]) -> int:
    """Run the named benchmarks, or all; returns how many failed."""
    scripts = [p.stem for p in sorted(HERE.glob("*.py")) if not p.stem.startswith("_")]
    unknown = sorted(set(names) - set(scripts))
    if unknown:
        print(f"there is no benchmark {unknown[0]!r}; there are {', '.join(scripts)}")
        return 1
    failed = 0
    for name in names or scripts:
        print(f"== {name}", flush=True)
        command = [sys.executable, "-m", f"benchmarks.{name}", "--out", str(recorded(name))]
        failed += subprocess.run(command, cwd=HERE.parent, check=False).returncode != 0
    for name in names or scripts:
        if recorded(name).is_file():
            print(line(json.loads(recorded(name).read_text(encoding="utf-8"))))
    return failed


def recorded(name: str) -> Path:
    """Where the result of a benchmark lies."""
    return HERE / "results" / f"{name}.json"


def line(result: dict[str, object]) -> str:
    """The ratios of one result, its aims and the load it was measured under."""
    flat = {}
    for key, value in result.items():
        parts = value if isinstance(value, dict) else {"": value}
        flat |= {f"{key} {part}".strip(): v for part, v in parts.items()}
    told = ("ratio", "times_", "aim", "load")
    shown = [f"{k} {v}" for k, v in flat.items() if any(word in k for word in told)]
    return f"{result['benchmark']!s:<18} {'; '.join(shown)}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
