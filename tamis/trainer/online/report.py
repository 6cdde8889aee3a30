"""What online selection did in a run: how often which rows were trained on, and what it cost."""

from __future__ import annotations

from typing import Any

import numpy as np

from tamis.trainer.online.picking import Picking

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
        **picking.sums,
        "rows_by_times_trained": {str(t): int(n) for t, n in zip(visits, rows, strict=True)},
        "most_trained": [[names[i], int(times[i])] for i in top if times[i]],
        "seconds_scoring": picking.seconds,
        "seconds_training": max(0.0, seconds - picking.seconds),
    }
    return {**found, **{n: v for n, v in picking.told.items() if n in ("queued", "effective_rows")}}
