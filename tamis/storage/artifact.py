"""The store: a folder of immutable artefacts, each sealed by an `artifact.json` written last.

An artefact lives in `STORE/<kind>/<key>/`. Its key hashes everything it depends on, so the same
key is the same content and is reused. While it is made it is called `<key>.partial`; files appear
there one by one, each renamed into place when whole, and a maker that was killed finds them again.
One lock per artefact keeps makers apart; readers never wait.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
from filelock import FileLock, Timeout

from tamis.errors import StoreError
from tamis.storage import files

SEAL = "artifact.json"
Say = Callable[[str], None]


def key_of(kind: str, inputs: Mapping[str, Any]) -> str:
    """The key of an artefact: 32 hex digits over its kind and everything that determines its
    content.

    `inputs` is JSON-like and holds keys of other artefacts, options, seed and code version; never a
    path.
    """
    return files.digest({"kind": kind, "inputs": dict(inputs)})


@dataclass(frozen=True, slots=True)
class Artifact:
    """A sealed artefact on disk."""

    kind: str
    key: str
    path: Path

    @property
    def seal(self) -> dict[str, Any]:
        """What its maker wrote: `inputs`, `facts`, `files` (size and sha256 of each),
        `created_utc`."""
        seal: dict[str, Any] = files.read_json(self.path / SEAL)
        return seal

    @property
    def facts(self) -> dict[str, Any]:
        """What its maker had to tell: counts, seconds, metrics."""
        facts: dict[str, Any] = self.seal["facts"]
        return facts

    def verify(self) -> None:
        """Raise `StoreError` unless every file is as it was sealed. Reads all bytes."""
        for name, want in self.seal["files"].items():
            path = self.path / name
            if not path.is_file():
                raise StoreError(f"{path} is missing; remove {self.path} and run again")
            if path.stat().st_size != want["bytes"] or files.file_sha256(path) != want["sha256"]:
                raise StoreError(f"{path} was changed or damaged; remove {self.path} and run again")


@dataclass(slots=True)
class Maker:
    """Where to write an artefact, and what an earlier, killed run left there."""

    folder: Path
    key: str

    def has(self, name: str) -> bool:
        """Whether a whole file of this name is there from an earlier run."""
        return (self.folder / name).is_file()

    def write_parquet(self, name: str, table: pa.Table) -> None:
        """Write one shard; after this returns it survives a kill."""
        files.write_parquet(self.folder / name, table)

    def write_json(self, name: str, value: Any) -> None:
        """Write one JSON file; after this returns it survives a kill."""
        files.write_json(self.folder / name, value)


class Store:
    """A folder of artefacts. Creating the object creates nothing; the first write does."""

    def __init__(self, root: str | Path):
        self.root = Path(root)

    def folder(self, kind: str, key: str) -> Path:
        """Where the artefact lies, whether or not it exists."""
        return self.root / kind / key

    def find(self, kind: str, key: str) -> Artifact | None:
        """The sealed artefact, or None."""
        path = self.folder(kind, key)
        return Artifact(kind, key, path) if (path / SEAL).is_file() else None

    def get(self, kind: str, key: str) -> Artifact:
        """The sealed artefact; raises `StoreError` if there is none."""
        found = self.find(kind, key)
        if found is None:
            raise StoreError(
                f"the store {self.root} has no {kind} {key}; run the stage that makes it"
            )
        return found

    def all(self, kind: str) -> list[Artifact]:
        """All sealed artefacts of a kind, oldest first."""
        seals = (self.root / kind).glob(f"*/{SEAL}")
        found = [
            Artifact(kind, seal.parent.name, seal.parent)
            for seal in seals
            if not seal.parent.name.endswith(".partial")
        ]
        return sorted(found, key=lambda a: (a.seal["created_utc"], a.key))

    def point(self, kind: str, name: str, key: str) -> None:
        """Note which artefact of a kind a name stands for; what people query follows this."""
        if self.latest(kind).get(name) != key:
            files.write_json(self.root / "latest" / kind / f"{name}.json", {"key": key})

    def latest(self, kind: str) -> dict[str, str]:
        """The key that each name of a kind stands for, by name."""
        pointers = sorted((self.root / "latest" / kind).glob("*.json"))
        return {p.stem: files.read_json(p)["key"] for p in pointers}

    def ensure(
        self,
        kind: str,
        inputs: Mapping[str, Any],
        make: Callable[[Maker], Mapping[str, Any]],
        *,
        say: Say,
    ) -> tuple[Artifact, bool]:
        """Give the artefact with these inputs, made if it is not there, and whether it was reused.

        `make` writes files through the `Maker` and returns facts. If it fails or is killed, what it
        wrote stays in `<key>.partial` and the next call goes on from there. A second process waits
        for the first and says so.
        """
        key = key_of(kind, inputs)
        found = self.find(kind, key)
        if found is not None:
            return found, True
        path = self.folder(kind, key)
        with self.lock(kind, key, say=say):
            found = self.find(kind, key)  # another process may have made it while this one waited
            if found is not None:
                return found, True
            partial = path.with_name(f"{key}.partial")
            partial.mkdir(parents=True, exist_ok=True)
            for leftover in partial.glob(".*.tmp"):
                leftover.unlink()
            facts = make(Maker(partial, key))
            _seal(partial, path, kind, key, inputs, facts)
        return Artifact(kind, key, path), False

    @contextmanager
    def lock(self, kind: str, key: str, *, say: Say) -> Iterator[None]:
        """Hold the lock of an artefact; wait for another holder and say so once."""
        path = self.root / "locks" / f"{kind}-{key}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say(f"waiting: another process is making {kind} {key[:12]} in {self.root}")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()


def _seal(
    partial: Path,
    path: Path,
    kind: str,
    key: str,
    inputs: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> None:
    """Write the seal last, then give the folder its final name."""
    written = sorted(p for p in partial.rglob("*") if p.is_file() and p.name != SEAL)
    files.write_json(
        partial / SEAL,
        {
            "kind": kind,
            "key": key,
            "inputs": dict(inputs),
            "facts": dict(facts),
            "files": {
                p.relative_to(partial).as_posix(): {
                    "bytes": p.stat().st_size,
                    "sha256": files.file_sha256(p),
                }
                for p in written
            },
            "created_utc": datetime.now(UTC).isoformat(timespec="microseconds"),
        },
    )
    if path.exists():  # a folder without a seal under the final name is not ours to keep
        shutil.rmtree(path)
    os.replace(partial, path)
    files.sync_folder(path.parent)
