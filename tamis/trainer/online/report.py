"""What online selection did in a run: how often which rows were trained on, and what it cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tamis.trainer.online.picking import Picking

ROWS = "trained_rows.parquet"
_MOST = 10


def facts(picking: Picking, seconds: float) -> dict[str, Any]:
    """For the report of a run whose training took `seconds` in all."""
    times = picking.times
    visits, rows = np.unique(times, return_counts=True)
    top = np.argsort(-times, kind="stable")[:_MOST]
    names = picking.dataset.examples.row_id
    found = {
        "method": picking.rule.name,
        "keep": picking.keep,
        "group": picking.group,
        **picking.sums,
        "rows_by_times_trained": {str(t): int(n) for t, n in zip(visits, rows, strict=True)},
        "most_trained": [[names[i], int(times[i])] for i in top if times[i]],
        "seconds_scoring": picking.seconds,
        "seconds_training": max(0.0, seconds - picking.seconds),
    }
    return {**found, **{n: v for n, v in picking.told.items() if n in ("queued", "effective_rows")}}


def write_rows(picking: Picking, path: Path) -> None:
    """Write, in the order of the rows of the run: `row_id`, `times`, how often it was trained on,
    and, for a rule that learns one, its `weight` at the end."""
    columns = {
        "row_id": picking.dataset.examples.row_id[: picking.rows],
        "times": picking.times.astype(np.int32),
    }
    weights = getattr(picking.rule, "weights", None)
    if weights is not None:
        columns["weight"] = weights().astype(np.float32)
    temporary = path.with_suffix(".tmp")
    pq.write_table(pa.table(columns), temporary)
    temporary.replace(path)
