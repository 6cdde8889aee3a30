"""Ready-made stores for tests of the stages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tamis import samples
from tamis.pipelines.context import Context
from tamis.pipelines.pool import Snapshot, snapshot
from tamis.recipe import Recipe
from tamis.storage.artifact import Maker, Store

Row = dict[str, Any]


def silent(_: str) -> None:
    """Say nothing."""


class NoProgress:
    """A progress bar nobody sees."""

    def __init__(self, title: str, total: int) -> None:
        self.total = total

    def __enter__(self) -> Callable[[int], None]:
        return lambda n: None

    def __exit__(self, *_: object) -> None:
        return None


def conversation(question: str, answer: str) -> list[Row]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def put(store: Store, name: str, rows: Sequence[Row], parts: int = 1) -> str:
    """Store rows (`question`, `answer` and any scalar columns) as an ingested source."""
    seen: dict[str, int] = {}
    table = []
    for i, row in enumerate(rows):
        messages = conversation(row["question"], row["answer"])
        key = samples.content_key(messages)
        seen[key] = seen.get(key, -1) + 1
        table.append(
            {
                "id": samples.sample_id(name, key, seen[key]),
                "content_key": key,
                "occurrence": seen[key],
                "duplicate": seen[key] > 0,
                "source": name,
                "licence": None,
                "origin": f"{name}:{i + 1}",
                "shape": "messages",
                "messages": [samples.encode_message(m) for m in messages],
                "tools": None,
                **{k: v for k, v in row.items() if k not in ("question", "answer")},
                "extra": None,
            }
        )
    extra = [k for k in table[0] if k not in samples.COLUMNS.names]
    fields = [*samples.COLUMNS, *(pa.field(k, _type(table, k)) for k in extra)]

    def make(maker: Maker) -> dict[str, Any]:
        size = -(-len(table) // parts)
        for i in range(parts):
            part = pa.Table.from_pylist(table[i * size : (i + 1) * size], pa.schema(fields))
            maker.write_parquet(f"part-{i:05d}.parquet", part)
        return {"name": name}

    inputs = {"name": name, "rows": [r["id"] for r in table], "parts": parts}
    artifact, _ = store.ensure("samples", inputs, make, say=silent)
    store.point("samples", name, artifact.key)
    return artifact.key


def _type(table: Sequence[Row], name: str) -> pa.DataType:
    values = [row[name] for row in table if row[name] is not None]
    return pa.array(values).type if values else pa.string()


@pytest.fixture
def no_progress() -> type[NoProgress]:
    return NoProgress


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def put_rows(store: Store) -> Callable[..., Snapshot]:
    """Ingest rows as a source and give the pool of all sources."""

    def add(name: str, rows: Sequence[Row], parts: int = 1) -> Snapshot:
        put(store, name, rows, parts)
        return snapshot(store, store.latest("samples"))

    return add


@pytest.fixture
def make_context(store: Store) -> Callable[..., Context]:
    def make(**blocks: Any) -> Context:
        content = {"sources": {"pool": {"stored": True}}, **blocks}
        return Context(Recipe.model_validate(content), store, "cpu", silent, NoProgress)

    return make
