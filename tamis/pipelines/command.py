"""A user's own trainer or evaluator: a command that is given folders and writes JSON."""

from __future__ import annotations

import math
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from tamis.errors import RecipeError, TamisError

METRICS = "metrics.json"


def run(command: str, places: Mapping[str, str], *, where: str) -> dict[str, float]:
    """Run a command line with `{name}` replaced by the place of that name; returns its metrics.

    The line is split like a shell's, but no shell sees it. What it prints goes to stderr. It may
    write `metrics.json`, an object of numbers, into `{out}`. Raises `RecipeError` for a line that
    does not name `{out}`, `TamisError` when the command fails.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise RecipeError(f"{where}: the command cannot be split into words: {error}") from error
    if not any("{out}" in word for word in words):
        raise RecipeError(f"{where}: the command must name {{out}}, where its result goes")
    for name, place in places.items():
        words = [word.replace(f"{{{name}}}", place) for word in words]
    Path(places["out"]).mkdir(parents=True, exist_ok=True)
    try:
        # Its stdout is our stderr: ours may hold one JSON document.
        status = subprocess.run(words, stdout=2, check=False).returncode
    except OSError as error:
        raise TamisError(f"{where}: cannot run {words[0]}: {error.strerror}") from error
    if status != 0:
        raise TamisError(f"{where}: the command {words[0]} ended with status {status}")
    return _metrics(Path(places["out"]) / METRICS, where)


def _metrics(path: Path, where: str) -> dict[str, float]:
    if not path.is_file():
        return {}
    try:
        found: Any = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise TamisError(f"{where}: {path.name} is not valid JSON: {error}") from error
    numbers = (int, float)
    if not isinstance(found, dict) or not all(
        isinstance(v, numbers) and math.isfinite(v) for v in found.values()
    ):
        raise TamisError(f"{where}: {path.name} must be one object of finite numbers")
    return {str(name): float(value) for name, value in found.items()}
