"""Licences: which rows may be used at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from tamis.errors import DataError
from tamis.pipelines.columns import Columns


def allowed(columns: Columns, licences: Sequence[str] | None) -> np.ndarray:
    """Mark the rows that carry one of the licences, a boolean (n,); every row if None is given.

    Case and white space around a name do not count. A row without a licence carries none of them.
    Raises `DataError` when no row is left.
    """
    if licences is None:
        return np.ones(len(columns.pool), dtype=bool)
    wanted = {_plain(name) for name in licences}
    found = [_plain(value) in wanted for value in columns.values("licence")]
    if not any(found):
        counts = list(refused(columns, np.ones(len(columns.pool), dtype=bool)).items())
        there = ", ".join(f"{name} ({count:,} rows)" for name, count in counts[:5])
        raise DataError(f"no row has one of the licences {', '.join(licences)}; there is {there}")
    return np.array(found, dtype=bool)


def refused(columns: Columns, rows: np.ndarray) -> dict[str, int]:
    """How many of the marked rows carry which licence, the most frequent first."""
    values = columns.values("licence")[rows]
    return dict(Counter("unknown" if v is None else str(v) for v in values).most_common())


def _plain(name: object) -> str:
    return "" if name is None else str(name).strip().casefold()
