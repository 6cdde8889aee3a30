"""Batches and pools of conversations, shared by the tests of the scorers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest

from tamis import samples
from tamis.scoring.base import Rows


@pytest.fixture
def batch() -> Callable[..., pa.RecordBatch]:
    """Make a batch of `samples` columns from conversations and, if any, their tools."""

    def make(rows: list[list[dict[str, Any]]], tools: list[Any] | None = None) -> pa.RecordBatch:
        tools = tools or [None] * len(rows)
        columns = {
            "content_key": [samples.content_key(r, t) for r, t in zip(rows, tools, strict=True)],
            "messages": pa.array(
                [[samples.encode_message(m) for m in r] for r in rows], samples.MESSAGES
            ),
            "tools": pa.array(
                [None if t is None else orjson.dumps(t).decode() for t in tools], pa.string()
            ),
            "source": ["test"] * len(rows),
        }
        return pa.record_batch(columns)

    return make


@pytest.fixture
def pair() -> Callable[[str, str], list[dict[str, Any]]]:
    """A conversation of one question and one answer."""
    return lambda question, answer: [
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer},
    ]


@pytest.fixture
def pool(batch: Callable[..., pa.RecordBatch]) -> Callable[..., Rows]:
    """Make a pool of answers or conversations, read in batches of `size` out of order."""

    def make(rows: list[Any], *, size: int = 7, **columns: np.ndarray) -> Rows:
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
