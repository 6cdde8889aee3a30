"""Where rows are scored changes nothing: one process, several, array jobs, a Ray cluster."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tamis.commands.common import part_of
from tamis.errors import MissingPackage, RecipeError, TamisError
from tamis.pipelines import run as running
from tamis.pipelines import shards
from tamis.recipe import build
from tamis.storage.artifact import Store

ROWS = 60
BLOCK = 8


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("engines") / "pool.parquet"
    asked = [f"question number {i}" for i in range(ROWS)]
    answers = ["word " * (i % 11 + 1) for i in range(ROWS)]
    pq.write_table(pa.table({"instruction": asked, "output": answers}), path)
    return str(path)


@pytest.fixture(scope="module")
def lm(tiny_lm: Callable[..., Path]) -> str:
    return str(tiny_lm())


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    # Borders are drawn by the process that hands the shards out.
    monkeypatch.setattr(shards, "SHARD_ROWS", BLOCK)


@contextmanager
def no_progress(title: str, total: int) -> Any:
    yield lambda n: None


def score(
    store: Path,
    pool: str,
    lm: str,
    *,
    part: tuple[int, int] | None = None,
    progress: Any = no_progress,
    **engine: Any,
) -> Any:
    content = {
        "store": str(store),
        "sources": {"pool": {"path": pool}},
        "models": {"lm": {"path": lm, "prompt_style": "chat"}},
        "scores": {"nll": {"model": "lm"}, "length": {}},
        "engine": engine,
    }
    ctx = running.context(
        build(content, where="test"), say=lambda _: None, progress=progress, part=part
    )
    return running.run(ctx, until="score").outcomes[-1]


def tables(root: Path) -> dict[str, pa.Table]:
    """What is stored of each signal, in the order of its keys."""
    store = Store(root)
    found = {}
    for name, key in store.latest("signals").items():
        parts = sorted(store.folder("signals", key).glob("part-*.parquet"))
        found[f"{name}/{key}"] = pa.concat_tables(map(pq.read_table, parts)).sort_by("content_key")
    return found


@pytest.fixture(scope="module")
def expected(pool: str, lm: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, pa.Table]:
    root = tmp_path_factory.mktemp("local")
    before, shards.SHARD_ROWS = shards.SHARD_ROWS, BLOCK
    score(root, pool, lm)
    shards.SHARD_ROWS = before
    return tables(root)


def test_processes_give_the_same(
    pool: str, lm: str, tmp_path: Path, expected: dict[str, pa.Table]
) -> None:
    outcome = score(tmp_path, pool, lm, workers=2)
    assert outcome.computed == 2 * ROWS and tables(tmp_path) == expected
    assert score(tmp_path, pool, lm).reused == 2 * ROWS


def test_array_jobs_give_the_same_and_none_does_the_work_of_another(
    pool: str, lm: str, tmp_path: Path, expected: dict[str, pa.Table]
) -> None:
    # The second begins when the first is done, and so sees less that is missing.
    done = [score(tmp_path, pool, lm, part=(i, 3)).computed for i in (1, 3, 2)]
    assert sum(done) == 2 * ROWS and min(done) > 0
    assert tables(tmp_path) == expected


def test_a_process_that_dies_costs_its_shard(
    pool: str, lm: str, tmp_path: Path, expected: dict[str, pa.Table]
) -> None:
    killed = []

    @contextmanager
    def kill(title: str, total: int) -> Any:
        def advance(rows: int) -> None:
            if not killed and title.startswith("score"):
                children = psutil.Process().children(recursive=True)
                victim = next(c for c in children if "spawn_main" in " ".join(c.cmdline()))
                killed.append(victim.pid)
                os.kill(victim.pid, signal.SIGKILL)

        yield advance

    with pytest.raises(TamisError, match="a scoring process died"):
        score(tmp_path, pool, lm, workers=2, progress=kill)
    assert killed
    again = score(tmp_path, pool, lm, workers=2)
    assert again.reused > 0 and again.computed > 0
    assert tables(tmp_path) == expected


@pytest.mark.slow
def test_a_ray_cluster_gives_the_same_even_when_an_actor_dies(
    pool: str,
    lm: str,
    tmp_path: Path,
    expected: dict[str, pa.Table],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    killed = []

    @contextmanager
    def kill(title: str, total: int) -> Any:
        def advance(rows: int) -> None:
            if not killed and title.startswith("score"):
                actors = [p for p in psutil.process_iter(["cmdline"]) if _is_actor(p)]
                if actors:
                    killed.append(actors[0].pid)
                    os.kill(actors[0].pid, signal.SIGKILL)

        yield advance

    try:
        outcome = score(tmp_path / "store", pool, lm, progress=kill, name="ray", workers=2)
    finally:
        ray.shutdown()
    assert killed
    assert outcome.computed == 2 * ROWS and tables(tmp_path / "store") == expected


def _is_actor(process: psutil.Process) -> bool:
    return any("ray::" in word and "Actor" in word for word in process.info["cmdline"] or ())


def test_ray_is_asked_for_before_any_work(
    pool: str, lm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    hide = lambda name, *rest: None if name == "ray" else find(name, *rest)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", hide)
    with pytest.raises(MissingPackage, match=r"tamis\[ray\]"):
        score(tmp_path, pool, lm, name="ray")
    assert not (tmp_path / "samples").exists()


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/0", "-1/2"])
def test_a_part_that_cannot_be(text: str) -> None:
    with pytest.raises(RecipeError, match="expected I/N"):
        part_of(text)


def test_a_part_that_can() -> None:
    assert part_of("2/8") == (2, 8) and part_of(None) is None
