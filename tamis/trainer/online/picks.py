"""The log of a run's picks: one row a candidate and step, as Parquet beside the model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

NAME = "picks.parquet"
SCHEMA = pa.schema(
    [
        ("step", pa.int32()),
        ("row_id", pa.string()),
        ("total", pa.float32()),
        ("utility", pa.float32()),
        ("diversity", pa.float32()),
        ("kept", pa.bool_()),
    ]
)


class Picks:
    """Gathers the picks in memory, a part on disk at every checkpoint, one file at the end.

    Parts lie in `folder`, that of the checkpoints, and are named by the steps done when they were
    written: going on from a checkpoint drops what was written after it.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._waiting: list[pa.Table] = []

    def add(
        self, step: int, row_ids: list[str], scores: Mapping[str, Any], kept: np.ndarray
    ) -> None:
        """The candidates of a step (from 1): their scores where the rule has them, and whether
        they are trained on."""
        n = len(row_ids)
        columns: dict[str, Any] = {"step": np.full(n, step), "row_id": row_ids, "kept": kept}
        for name in ("total", "utility", "diversity"):
            columns[name] = (
                pa.array(np.asarray(scores[name], np.float32), from_pandas=True)
                if name in scores
                else pa.nulls(n, pa.float32())
            )
        self._waiting.append(pa.table({f.name: columns[f.name] for f in SCHEMA}, schema=SCHEMA))

    def flush(self, steps: int) -> None:
        """Write what waits; `steps` are done."""
        if self._waiting:
            _write(self.folder / f"picks-{steps:09d}.parquet", self._waiting)
            self._waiting = []

    def resume(self, steps: int) -> None:
        """Forget what was written after so many steps."""
        self._waiting = []
        for path in self._parts():
            if int(path.stem.removeprefix("picks-")) > steps:
                path.unlink()

    def finish(self, steps: int, path: Path) -> None:
        """Write all picks as one file, a part at a time."""
        self.flush(steps)
        temporary = path.with_suffix(".tmp")
        with pq.ParquetWriter(temporary, SCHEMA) as writer:
            for part in self._parts():
                writer.write_table(pq.read_table(part, schema=SCHEMA))
        temporary.replace(path)

    def _parts(self) -> list[Path]:
        return sorted(self.folder.glob("picks-*.parquet"))


def _write(path: Path, tables: list[pa.Table]) -> None:
    temporary = path.with_suffix(".tmp")
    pq.write_table(pa.concat_tables(tables), temporary)
    temporary.replace(path)
