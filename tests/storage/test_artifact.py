"""Artefacts are sealed last, reused by key, finished after a kill, and made by one process only."""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tamis.errors import StoreError
from tamis.storage import files
from tamis.storage.artifact import SEAL, Maker, Store, key_of


def quiet(_: str) -> None:
    """Say nothing."""


def numbers(start: int) -> pa.Table:
    return pa.table({"n": list(range(start, start + 4))})


def make_four(maker: Maker) -> dict[str, int]:
    made = 0
    for i in range(4):
        if not maker.has(f"part-{i}.parquet"):
            maker.write_parquet(f"part-{i}.parquet", numbers(i))
            made += 1
    return {"made": made}


def test_same_inputs_are_reused_and_other_inputs_are_not(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first, reused_first = store.ensure("things", {"a": 1}, make_four, say=quiet)
    again, reused_again = store.ensure("things", {"a": 1}, make_four, say=quiet)
    other, reused_other = store.ensure("things", {"a": 2}, make_four, say=quiet)
    assert (reused_first, reused_again, reused_other) == (False, True, False)
    assert first == again
    assert first.key != other.key


def test_key_depends_on_kind_and_every_input_but_not_on_their_order() -> None:
    assert key_of("a", {"x": 1, "y": 2}) == key_of("a", {"y": 2, "x": 1})
    different = {key_of("a", {"x": 1}), key_of("b", {"x": 1}), key_of("a", {"x": 2})}
    assert len(different) == 3


def test_nothing_is_found_before_the_seal(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def fail_midway(maker: Maker) -> dict[str, int]:
        maker.write_parquet("part-0.parquet", numbers(0))
        assert store.find("things", maker.key) is None
        assert store.all("things") == []
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        store.ensure("things", {}, fail_midway, say=quiet)
    assert store.all("things") == []
    artifact, _ = store.ensure("things", {}, make_four, say=quiet)
    assert artifact.facts["made"] == 3  # the part from before the failure was kept
    assert [a.key for a in store.all("things")] == [artifact.key]


@pytest.mark.parametrize("crash_at", range(12))
def test_every_kill_point_of_a_write_leaves_nothing_or_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crash_at: int
) -> None:
    store = Store(tmp_path / "crashed")
    calls = 0
    real = os.replace

    def replace(source: str | Path, target: str | Path) -> None:
        nonlocal calls
        calls += 1
        if calls == crash_at:  # the machine stops just before this rename
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    crashed = False
    try:
        store.ensure("things", {}, make_four, say=quiet)
    except KeyboardInterrupt:
        crashed = True
    assert crashed == (0 < crash_at <= calls)
    monkeypatch.setattr(os, "replace", real)
    artifact, _ = store.ensure("things", {}, make_four, say=quiet)
    undisturbed, _ = Store(tmp_path / "plain").ensure("things", {}, make_four, say=quiet)
    assert artifact.seal["files"] == undisturbed.seal["files"]
    assert not list((tmp_path / "crashed").rglob("*.tmp"))
    assert not list((tmp_path / "crashed").rglob("*.partial"))


def test_damage_is_seen(tmp_path: Path) -> None:
    artifact, _ = Store(tmp_path).ensure("things", {}, make_four, say=quiet)
    artifact.verify()
    part = artifact.path / "part-1.parquet"
    good = part.read_bytes()
    part.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(StoreError, match="changed or damaged"):
        artifact.verify()
    part.unlink()
    with pytest.raises(StoreError, match="missing"):
        artifact.verify()


def test_an_unsealed_folder_under_the_final_name_is_made_anew(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = store.folder("things", key_of("things", {}))
    folder.mkdir(parents=True)
    (folder / "rubbish").write_text("x")
    artifact, reused = store.ensure("things", {}, make_four, say=quiet)
    assert not reused
    assert not (artifact.path / "rubbish").exists()
    assert (artifact.path / SEAL).is_file()


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, {"old": 1})
    with pytest.raises(TypeError):
        files.write_json(path, {"new": object()})
    assert files.read_json(path) == {"old": 1}
    with pytest.raises(OSError), files.replacing(path):
        raise OSError("disk full")
    assert files.read_json(path) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_pointers_follow_the_last_word(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.point("samples", "pool", "k1")
    store.point("samples", "pool", "k2")
    store.point("samples", "other", "k3")
    assert store.latest("samples") == {"pool": "k2", "other": "k3"}
    assert store.latest("signals") == {}


def slow_make(root: str, started: str, ended: str) -> None:
    def make(maker: Maker) -> dict[str, int]:
        Path(started).touch()
        time.sleep(0.7)
        return make_four(maker)

    said: list[str] = []
    _, reused = Store(root).ensure("things", {}, make, say=said.append)
    Path(ended).write_text(f"{reused} {len(said)}")


def test_two_processes_make_it_once_and_the_second_says_that_it_waits(tmp_path: Path) -> None:
    root = str(tmp_path / "store")
    spawn = mp.get_context("spawn")
    first = spawn.Process(target=slow_make, args=(root, str(tmp_path / "s1"), str(tmp_path / "e1")))
    first.start()
    wait_for(tmp_path / "s1")
    said: list[str] = []
    _, reused = Store(root).ensure("things", {}, make_four, say=said.append)
    first.join(20)
    assert reused
    assert len(said) == 1
    assert "waiting" in said[0]
    assert (tmp_path / "e1").read_text() == "False 0"


def hold_forever(root: str, started: str) -> None:
    def make(maker: Maker) -> dict[str, int]:
        maker.write_parquet("part-0.parquet", numbers(0))
        Path(started).touch()
        time.sleep(60)
        return {}

    Store(root).ensure("things", {}, make, say=quiet)


def test_a_lock_dies_with_its_process(tmp_path: Path) -> None:
    root = str(tmp_path / "store")
    holder = mp.get_context("spawn").Process(target=hold_forever, args=(root, str(tmp_path / "s")))
    holder.start()
    wait_for(tmp_path / "s")
    assert holder.pid is not None
    os.kill(holder.pid, signal.SIGKILL)
    holder.join(10)
    artifact, _ = Store(root).ensure("things", {}, make_four, say=quiet)
    assert artifact.facts["made"] == 3
    assert pq.read_table(artifact.path / "part-3.parquet").equals(numbers(3))


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline, f"{path.name} never appeared"
        time.sleep(0.02)
