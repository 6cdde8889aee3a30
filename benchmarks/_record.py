"""How every benchmark tells its result: one JSON line, with the machine and its load."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np


def record(result: dict[str, Any], out: Path | None) -> None:
    """Print the result with the machine and its load now, and write it to `out` if given."""
    versions = f"Python {platform.python_version()}, numpy {np.__version__}"
    told = {
        **result,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {versions}",
        "load": [round(load, 2) for load in os.getloadavg()],
    }
    line = json.dumps(told)
    print(line)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(line + "\n", encoding="utf-8")
