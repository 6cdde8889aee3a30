"""A release: the subset that a run has chosen, with the pool it was chosen from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tamis.errors import StoreError
from tamis.pipelines.columns import Columns
from tamis.pipelines.pool import Snapshot, snapshot
from tamis.storage import files
from tamis.storage.artifact import Artifact, Store

_LATEST = re.compile(r"latest(?:~(\d+))?")


@dataclass(frozen=True)
class Release:
    """A run that has chosen a subset; `log` is what it wrote down."""

    store: Store
    log: Mapping[str, Any]

    @property
    def run_id(self) -> str:
        """The id of the run."""
        return str(self.log["run_id"])

    @cached_property
    def keys(self) -> dict[str, str]:
        """The keys of the run's artefacts by name; a later stage's stand for an earlier one's."""
        return {n: k for stage in self.log["stages"] for n, k in stage["keys"].items()}

    @cached_property
    def pool(self) -> Snapshot:
        """All samples the run could choose from."""
        return snapshot(self.store, dict(self.selection.seal["inputs"]["samples"]))

    @cached_property
    def selection(self) -> Artifact:
        """The chosen subset."""
        return self.store.get("selections", str(self.log["selection"]))

    @cached_property
    def rows(self) -> pa.Table:
        """A row for every sample of the pool, ascending by id: `id`, `content_key`, `source`,
        `kept`, `rank`, `reason`."""
        names = ["id", "kept", "rank", "reason"]
        table = pq.read_table(self.selection.path / "rows.parquet", columns=names).sort_by("id")
        for name in ("content_key", "source"):
            table = table.append_column(name, self.pool.column(name))
        return table

    @property
    def signals(self) -> dict[str, str]:
        """The fingerprint of every signal the run scored or reused."""
        prefix = "signals/"
        return {n.removeprefix(prefix): k for n, k in self.keys.items() if n.startswith(prefix)}

    @property
    def columns(self) -> Columns:
        """The signals of the pool by column."""
        return Columns(self.store, self.pool, self.signals, _silent)


def release(store: Store, name: str) -> Release:
    """The release of a run by its id or the beginning of it, `latest`, or `latest~N`, N before it.

    Only runs that have chosen a subset count. Raises `StoreError` when there is none, or several.
    """
    logs = [files.read_json(path) for path in sorted((store.root / "runs").glob("*.json"))]
    chosen = [log for log in logs if log.get("selection")]
    if not chosen:
        raise StoreError(f"no run in the store {store.root} has chosen a subset; run tamis run")
    back = _LATEST.fullmatch(name)
    if back is not None:
        number = int(back[1] or 0)
        if number >= len(chosen):
            raise StoreError(
                f"{name}: the store {store.root} has {len(chosen)} runs that chose a subset"
            )
        return Release(store, chosen[-1 - number])
    found = [log for log in chosen if log["run_id"].startswith(name)]
    if len(found) == 1:
        return Release(store, found[0])
    if not found and any(log["run_id"].startswith(name) for log in logs):
        raise StoreError(f"the run {name} has chosen no subset, so there is nothing to compare")
    which = "more than one run's id" if found else "no run's id"
    raise StoreError(
        f"{name!r} is the beginning of {which}; tamis sql 'select run_id, recipe from runs' lists "
        "them, and latest, latest~1 are the last two"
    )


def _silent(_: str) -> None:
    pass
