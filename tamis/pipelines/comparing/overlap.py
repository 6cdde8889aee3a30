"""How much the subsets of a comparison have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from tamis.pipelines.comparing.cells import FULL, budget_of
from tamis.pipelines.comparing.table import Line
from tamis.pipelines.context import Context


def overlap(ctx: Context, given: Sequence[Line]) -> list[dict[str, Any]]:
    """For each budget a matrix of Jaccard similarities |A & B| / |A | B| of kept rows.

    Of two methods the mean over seeds, same seed with same seed; on the diagonal the mean over
    pairs of seeds of one method: 1 where it does not draw, None with one seed. O(methods^2 x rows).
    """
    made = []
    for budget in dict.fromkeys(repr(line.budget) for line in given if line.method != FULL):
        lines = [line for line in given if repr(line.budget) == budget]
        made.append(
            {
                "budget": budget_of(lines[0].budget),
                "methods": [line.method for line in lines],
                "jaccard": _matrix([_kept(ctx, line) for line in lines]),
            }
        )
    return made


def jaccard(kept: np.ndarray) -> np.ndarray:
    """The similarities (m, m) of the rows of a boolean (m, n); 1 for two empty ones."""
    marks = kept.astype(np.float32)
    both = (marks @ marks.T).astype(np.float64)
    size = np.diag(both)
    either = size[:, None] + size[None, :] - both
    found: np.ndarray = np.divide(both, either, out=np.ones_like(both), where=either > 0)
    return found


def _matrix(kept: Sequence[np.ndarray]) -> list[list[float | None]]:
    """Of the kept rows (seeds, n) of each method."""
    seeds = len(kept[0])
    mean = np.mean([jaccard(np.stack([k[seed] for k in kept])) for seed in range(seeds)], axis=0)
    found: list[list[float | None]] = mean.tolist()
    others = ~np.eye(seeds, dtype=bool)
    for at, own in enumerate(kept):
        found[at][at] = float(jaccard(own)[others].mean()) if seeds > 1 else None
    return found


def _kept(ctx: Context, line: Line) -> np.ndarray:
    """Which rows of the pool each seed kept, bool (seeds, n): rows ascend by id everywhere."""
    found = []
    for done in line.cells:
        path = ctx.store.get("selections", done.keys["selection"]).path / "rows.parquet"
        found.append(pq.read_table(path, columns=["kept"])["kept"].to_numpy())
    return np.stack(found)
