"""Pools out of conversations, shared by the tests of the scorers of duplicates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tamis.scoring.base import Rows

Conversation = list[dict[str, Any]]


@pytest.fixture
def pool(batch: Callable[..., pa.RecordBatch]) -> Callable[..., Rows]:
    """Make a pool of answers or conversations, read in batches of `size` out of order."""

    def make(rows: list[str | Conversation], *, size: int = 7, **columns: np.ndarray) -> Rows:
        turns = [
            [{"role": "assistant", "content": row}] if isinstance(row, str) else row for row in rows
        ]
        order = np.random.default_rng(len(rows)).permutation(len(rows))

        def batches() -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
            for start in range(0, len(rows), size):
                places = order[start : start + size]
                yield places, batch([turns[i] for i in places])

        given = {name.replace("__", "."): values for name, values in columns.items()}
        return Rows(len(rows), given, batches)

    return make
