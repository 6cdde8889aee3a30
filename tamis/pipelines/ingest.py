"""Ingest: rows of any usual shape from files or a Hugging Face dataset into one samples artefact.

Two passes. The first streams rows into raw shards and remembers after each where it stands, so a
killed ingest goes on from there. The second reads the content keys alone, numbers the occurrences
of each content, and writes the final shards. Memory holds one shard, and 32 bytes a row at most.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import orjson

from tamis import recipe
from tamis.errors import DataError
from tamis.pipelines.context import Advance, Progress
from tamis.samples import content_key
from tamis.storage import files, hub, ids, readers, shards
from tamis.storage.artifact import Artifact, Maker, Say, Store
from tamis.storage.inputs import InputFile, expand, sha256_and_bytes
from tamis.storage.shapes import normalise
from tamis.storage.turns import Rejected

VERSION = 1  # raise it when the same input gives another table
SHARD_ROWS = 16_384
SHARD_BYTES = 1 << 26
_DONE = "raw-done.json"
_COLUMNAR = ("parquet",)


@dataclass(frozen=True, slots=True)
class _Job:
    """What one artefact is made from."""

    name: str
    inputs: list[InputFile] | list[hub.HubInput]
    bytes: int
    licence: str | None
    limit: int | None
    total: int  # rows, 0 when nobody knows before reading


def ingest_source(
    store: Store, name: str, source: recipe.Source, *, say: Say, progress: Progress
) -> tuple[Artifact, bool]:
    """Ingest one source as artefact `samples`; returns it and whether it was there already.

    The key holds the bytes of the input, never where it lies. A bad row goes to `rejected`; a bad
    file raises `DataError` and leaves nothing behind. `progress` is given the number of rows, or 0
    where no one knows it before reading. Facts: `accepted`, `rejected` by reason, `duplicates`,
    `rows`, `rows_per_second`, `seconds`, `bytes`, `files`, `columns`.
    """
    job, identity = _job(name, source)
    key = {
        "name": name,
        "input": identity,
        "licence": source.licence,
        "limit": source.limit,
        "version": VERSION,
    }

    def make(maker: Maker) -> Mapping[str, Any]:
        try:
            return _make(maker, job, progress)
        except DataError:  # the same bytes would fail again
            for path in maker.folder.iterdir():
                path.unlink()
            maker.folder.rmdir()
            raise

    return store.ensure("samples", key, make, say=say)


def _job(name: str, source: recipe.Source) -> tuple[_Job, Any]:
    if source.hf is not None:
        found = hub.find(source.hf.removeprefix("hf:"), source.split)
        identity = {"dataset": found.name, "revision": found.revision, "split": found.split}
        return _Job(name, [found], 0, source.licence, source.limit, source.limit or 0), identity
    inputs = expand(source.paths)
    counts = [readers.parquet_rows(file) for file in inputs]
    known = sum(count for count in counts if count is not None) if None not in counts else 0
    total = min(known or source.limit or 0, source.limit or known)
    hashed = [sha256_and_bytes(file) for file in inputs]
    identity = [
        [sha, file.format, file.compression] for (sha, _), file in zip(hashed, inputs, strict=True)
    ]
    size = sum(count for _, count in hashed)
    return _Job(name, inputs, size, source.licence, source.limit, total), identity


def _make(maker: Maker, job: _Job, progress: Progress) -> dict[str, Any]:
    started = time.perf_counter()
    done = _finished(maker)
    before = sum(shard["seconds"] for shard in done)
    if not maker.has(_DONE):
        with progress(f"ingest {job.name}", job.total) as advance:
            done = _FirstPass(maker, job, done, advance).run()
        maker.write_json(_DONE, {})
    rejected = sum((Counter(shard["rejected"]) for shard in done), Counter())
    rows, accepted = sum(s["rows"] for s in done), sum(s["accepted"] for s in done)
    if accepted == 0:
        raise DataError(_no_usable_row(job, rows, rejected))
    duplicates, columns = _second_pass(maker, job.name, done)
    if not rejected:
        maker.write_parquet("rejected-00000.parquet", shards.rejected_table([]))
    _remove_raw(maker, len(done))
    seconds = before + time.perf_counter() - started
    return {
        "name": job.name,
        "accepted": accepted,
        "rejected": dict(sorted(rejected.items())),
        "duplicates": duplicates,
        "rows": rows,
        "rows_per_second": round(rows / seconds, 1),
        "seconds": round(seconds, 3),
        "bytes": job.bytes,
        "files": [source.name for source in job.inputs],
        "columns": columns,
    }


def _no_usable_row(job: _Job, rows: int, rejected: Counter[str]) -> str:
    what = job.inputs[0].url if isinstance(job.inputs[0], InputFile) else job.inputs[0].name
    more = f" and {len(job.inputs) - 1} more files" if len(job.inputs) > 1 else ""
    reasons = ", ".join(f"{reason} {count}" for reason, count in rejected.most_common())
    return (
        f"{what}{more}: no usable row among {rows} ({reasons}); expected rows with messages, "
        "conversations, instruction and output or response, or prompt and completion"
    )


def _raw(number: int, suffix: str) -> str:
    return f"raw-{number:05d}.{suffix}"


def _finished(maker: Maker) -> list[dict[str, Any]]:
    """The notes of the raw shards that an earlier run finished."""
    notes: list[dict[str, Any]] = []
    while maker.has(_raw(len(notes), "json")):
        notes.append(files.read_json(maker.folder / _raw(len(notes), "json")))
    return notes


@dataclass(slots=True)
class _FirstPass:
    """Rows into raw shards; `notes` tells of each finished shard and where the next begins."""

    maker: Maker
    job: _Job
    notes: list[dict[str, Any]]
    advance: Advance
    shard: shards.RawShard = field(init=False)
    bad: list[tuple[str, str, int, str, bytes]] = field(init=False)
    rows: int = field(init=False)
    size: int = field(init=False)
    position: tuple[int, readers.Mark] = (0, readers.START)
    started: float = field(init=False)

    def run(self) -> list[dict[str, Any]]:
        """Read what is left to read and return all notes."""
        first, mark, seen = 0, readers.START, 0
        if self.notes:
            first, mark = self.notes[-1]["input"], tuple(self.notes[-1]["mark"])
            seen = sum(note["rows"] for note in self.notes)
            self.advance(seen)
        left = None if self.job.limit is None else self.job.limit - seen
        self._begin()
        for at in range(first, len(self.job.inputs)):
            if left is None or left > 0:
                taken = self._read(at, mark, left)
                left = None if left is None else left - taken
                mark = readers.START
        if self.rows:
            self._flush()
        return self.notes

    def _begin(self) -> None:
        self.shard = shards.RawShard(self.notes[-1]["names"] if self.notes else ())
        self.bad = []
        self.rows = self.size = 0
        self.started = time.perf_counter()

    def _read(self, at: int, start: readers.Mark, limit: int | None) -> int:
        """Take the rows of one input after `start`, at most `limit`; how many there were."""
        source = self.job.inputs[at]
        name, shift = source.name, 0 if isinstance(source, InputFile) else 1
        columnar = shift == 1 or source.format in _COLUMNAR
        taken = 0
        for number, mark, size, raw in islice(_rows(source, start), limit):
            taken += 1
            self.position = (at, mark)
            self.rows += 1
            self.size += size
            try:
                normal = normalise(_values(raw), columnar=columnar)
                key = content_key(normal.messages, normal.tools)
                self.shard.add(normal, key, self.job.licence, f"{name}:{number - shift}")
            except (Rejected, readers.Malformed) as error:
                self.bad.append((self.job.name, name, number, str(error), _text(raw)))
            except TypeError:  # what JSON cannot hold: bytes in a message, too deep a nesting
                self.bad.append((self.job.name, name, number, "bad_value", _text(raw)))
            if self.rows == SHARD_ROWS or self.size >= SHARD_BYTES:
                self._flush()
        return taken

    def _flush(self) -> None:
        number, part = len(self.notes), sum(bool(note["rejected"]) for note in self.notes)
        if self.bad:
            self.maker.write_parquet(
                f"rejected-{part:05d}.parquet", shards.rejected_table(self.bad)
            )
        kinds: dict[str, list[str]] = {}
        if len(self.shard):
            table, kinds = self.shard.table()
            shards.write_raw(self.maker.folder / _raw(number, "arrow"), table)
        note = {
            "input": self.position[0],
            "mark": list(self.position[1]),
            "rows": self.rows,
            "accepted": len(self.shard),
            "rejected": dict(Counter(reason for *_, reason, _ in self.bad)),
            "names": list(self.shard.names),
            "kinds": kinds,
            "seconds": time.perf_counter() - self.started,
        }
        self.maker.write_json(_raw(number, "json"), note)
        self.notes.append(note)
        self.advance(self.rows)
        self._begin()


def _rows(source: InputFile | hub.HubInput, mark: readers.Mark) -> Iterator[readers.Record]:
    return readers.read(source, mark) if isinstance(source, InputFile) else hub.read(source, mark)


def _values(raw: bytes | dict[str, Any] | readers.Bad) -> Any:
    if isinstance(raw, bytes):
        return readers.parse(raw)
    if isinstance(raw, readers.Bad):
        raise Rejected(raw.reason)
    return dict(raw)


def _text(raw: bytes | dict[str, Any] | readers.Bad) -> bytes:
    if isinstance(raw, bytes):
        return raw
    if isinstance(raw, readers.Bad):
        return raw.text
    try:
        return orjson.dumps(raw, default=repr, option=orjson.OPT_NON_STR_KEYS)
    except TypeError:
        return repr(raw).encode("utf-8", "replace")


def _second_pass(maker: Maker, name: str, notes: list[dict[str, Any]]) -> tuple[int, list[str]]:
    """Number the occurrences and write the final shards; duplicates and names of columns."""
    full = [number for number, note in enumerate(notes) if note["accepted"]]
    counts = [notes[number]["accepted"] for number in full]

    raw = [maker.folder / _raw(number, "arrow") for number in full]
    keys = (ids.key_words(shards.read_raw(path).column("content_key")) for path in raw)
    occurrence = ids.occurrences(keys, sum(counts))
    kinds = shards.column_kinds([note["kinds"] for note in notes])
    columns = {column: kinds[column] for column in notes[-1]["names"]}
    start = 0
    for part, (number, count) in enumerate(zip(full, counts, strict=True)):
        if not maker.has(f"part-{part:05d}.parquet"):
            own = occurrence[start : start + count]
            table = shards.final_table(
                shards.read_raw(raw[part]), notes[number]["kinds"], columns, name, own
            )
            maker.write_parquet(f"part-{part:05d}.parquet", table)
        start += count
    return int((occurrence > 0).sum()), list(shards.column_names(list(columns)).values())


def _remove_raw(maker: Maker, count: int) -> None:
    """Remove the raw shards, last first and each note before its shard, so that what is left after
    a kill is again a beginning to go on from."""
    (maker.folder / _DONE).unlink()
    for number in reversed(range(count)):
        (maker.folder / _raw(number, "json")).unlink()
        (maker.folder / _raw(number, "arrow")).unlink(missing_ok=True)
