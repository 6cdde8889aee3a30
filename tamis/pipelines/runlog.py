"""The log of runs: one JSON file a run, the view `runs` in SQL."""

from __future__ import annotations

import platform
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import tamis
from tamis.pipelines.context import Context, Outcome
from tamis.storage import files

# What may change a number; recorded with every run, never part of a key.
_PACKAGES = ("torch", "transformers", "peft", "sentence-transformers", "numpy", "pyarrow", "duckdb")


@dataclass(frozen=True, slots=True)
class RunLog:
    """A run that has begun."""

    run_id: str
    started: datetime


def begin(ctx: Context) -> RunLog:
    """Open the log of a run; its id sorts by time."""
    started = datetime.now(UTC)
    # Microseconds in hex, so that ids sort by time within a second too; and two digits of chance.
    log = RunLog(
        f"{started:%Y%m%dT%H%M%S}-{started.microsecond:05x}{secrets.token_hex(1)}", started
    )
    update(ctx, log, [], "running")
    return log


def update(ctx: Context, log: RunLog, outcomes: Sequence[Outcome], status: str) -> None:
    """Write what the run has done so far; `status` is running, complete or failed."""
    keys = {name: key for o in outcomes for name, key in o.keys.items()}
    facts: Mapping[str, Any] = next((o.facts for o in outcomes if o.stage == "evaluate"), {})
    content = {
        "run_id": log.run_id,
        "recipe": ctx.recipe.name,
        "status": status,
        "started_utc": f"{log.started:%Y-%m-%d %H:%M:%S}",
        "seconds": (datetime.now(UTC) - log.started).total_seconds(),
        "selection": keys.get("chosen/selection"),
        "baseline": keys.get("baseline/selection"),
        "stages": [o.document() for o in outcomes],
        "metrics": dict(facts),
        "settings": ctx.recipe.model_dump(exclude={"store"}),
        "versions": _versions(ctx.device),
    }
    files.write_json(ctx.store.root / "runs" / f"{log.run_id}.json", content)


def _versions(device: str) -> dict[str, str]:
    versions = {"tamis": tamis.__version__, "python": platform.python_version(), "device": device}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue  # an absent optional package is no version to record
    return versions
