"""Ready-made stores for tests of the stages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tamis import samples
from tamis.pipelines.context import Context
from tamis.pipelines.pool import Snapshot, snapshot
from tamis.recipe import Recipe
from tamis.storage import files
from tamis.storage.artifact import Maker, Store

Row = dict[str, Any]
# Facts that tell how a run went, not what came of it.
_TIMES = ("seconds", "rows_per_second", "tokens_per_second", "peak_memory_bytes")


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


@pytest.fixture(scope="session")
def contents() -> Callable[..., dict[str, Any]]:
    """Read every result of a store: tables by value, weights by bytes, facts without times and what
    else is `left` out."""

    def read(root: Path, *left: str) -> dict[str, Any]:
        assert not list(root.glob("*/*.partial"))
        found: dict[str, Any] = {}
        for path in sorted(root.glob("*/*/**/*")):
            name = str(path.relative_to(root))
            if path.suffix == ".parquet":
                found[name] = pq.read_table(path)
            elif path.suffix == ".safetensors":
                found[name] = files.file_sha256(path)
            elif path.name == "artifact.json":
                found[name] = without(files.read_json(path)["facts"], {*_TIMES, *left})
        return found

    def without(facts: Any, names: set[str]) -> Any:
        if isinstance(facts, dict):
            return {k: without(v, names) for k, v in facts.items() if k not in names}
        return facts

    return read


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
