"""The training manifest: a folder that holds the chosen rows and says what they are.

manifest.json  data/train-00000.parquet ...  data/heldout-00000.parquet
dataset_info.json  axolotl.yaml  README.md
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tamis.errors import DataError
from tamis.samples import decode_messages, decode_tools
from tamis.storage import files, manifest_card, manifest_consumers
from tamis.storage.manifest_rows import (
    content_hash,
    contents,
    from_table,
    single_turn,
    to_table,
)

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest on disk; `info` is its manifest.json."""

    folder: Path
    info: Mapping[str, Any]

    @property
    def content_hash(self) -> str:
        """What identifies the rows that are trained on, their ids and weights."""
        return str(self.info["content_hash"])

    def rows(self, split: str = "train") -> pa.Table:
        """The rows of a split (`train` or `heldout`): row_id, messages and tools as in
        `tamis.samples`, weight, source, ability, score. Empty when there is no such split."""
        paths = [self.folder / f["path"] for f in self.info["files"] if f["split"] == split]
        if not paths:
            return from_table(pq.read_table(self._first()).slice(0, 0))
        return from_table(pa.concat_tables([pq.read_table(path) for path in paths]))

    def _first(self) -> Path:
        return self.folder / str(self.info["files"][0]["path"])


def write(
    folder: Path,
    rows: pa.Table,
    heldout: pa.Table | None,
    *,
    name: str,
    about: Mapping[str, Any],
    licences: list[str],
    shard_rows: int,
) -> Manifest:
    """Write a manifest; manifest.json comes last.

    `rows` and `heldout` have row_id, messages, tools, weight (null is 1), source, ability, score.
    `about` gives `selection`, `base_model`, `tokenizer`, `method`, `trainer`, `seed`, `heldout`.
    Raises `DataError` for rows that `read` would refuse.
    """
    _check_rows(rows, heldout)
    written = _write_split(folder, "train", rows, shard_rows)
    if heldout is not None and heldout.num_rows:
        written += _write_split(folder, "heldout", heldout, shard_rows)
    weighted = rows.column("weight").null_count < rows.num_rows
    info = {
        "schema_version": SCHEMA_VERSION,
        "name": name,
        "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "files": written,
        "row_id_column": "row_id",
        "weight_column": "weight" if weighted else None,
        "weights_mode": "token_mean" if weighted else "none",
        **about,
        "content_hash": content_hash(rows),
        "heldout_content_hash": None if heldout is None else content_hash(heldout),
        "other_trainers": manifest_consumers.losses(rows),
    }
    train_files = [str(f["path"]) for f in written if f["split"] == "train"]
    entries = manifest_card.dataset_info(name, train_files, alpaca=_all_single_turn(rows))
    files.write_json(folder / "dataset_info.json", entries)
    config = manifest_card.axolotl(train_files, marked=_marked(rows))
    files.write_bytes(folder / "axolotl.yaml", config.encode())
    files.write_bytes(folder / "README.md", manifest_card.readme(info, licences).encode())
    files.write_json(folder / MANIFEST, info)
    return Manifest(folder, info)


def read(folder: str | Path) -> Manifest:
    """Open a manifest and check everything it promises. Reads all rows.

    Raises `DataError` when a file is missing or changed, the content hash differs, row ids repeat,
    a row has no assistant answer, weights are negative, not finite or sum to 0, or a held-out row
    is among the training rows by id or by content.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        raise DataError(f"{folder} is no training manifest: it has no {MANIFEST}")
    info = files.read_json(folder / MANIFEST)
    if info.get("schema_version") != SCHEMA_VERSION:
        raise DataError(
            f"{folder}: schema version {info.get('schema_version')}, expected {SCHEMA_VERSION}; "
            "export it anew"
        )
    for entry in info["files"]:
        path = folder / entry["path"]
        if not path.is_file() or files.file_sha256(path) != entry["sha256"]:
            raise DataError(f"{path} is missing or not what was exported; export it anew")
    manifest = Manifest(folder, info)
    rows, heldout = manifest.rows(), manifest.rows("heldout")
    _check_rows(rows, heldout)
    found = content_hash(rows)
    if found != manifest.content_hash:
        raise DataError(
            f"{folder}: the rows hash to {found[:12]}, {MANIFEST} says "
            f"{manifest.content_hash[:12]}; export it anew"
        )
    return manifest


def _write_split(folder: Path, split: str, rows: pa.Table, shard_rows: int) -> list[dict[str, Any]]:
    table = to_table(rows)
    entries = []
    for i, start in enumerate(range(0, table.num_rows, shard_rows)):
        name = f"data/{split}-{i:05d}.parquet"
        part = table.slice(start, shard_rows)
        files.write_parquet(folder / name, part)
        entries.append(
            {
                "path": name,
                "split": split,
                "n_rows": part.num_rows,
                "sha256": files.file_sha256(folder / name),
            }
        )
    return entries


def _check_rows(rows: pa.Table, heldout: pa.Table | None) -> None:
    ids = rows.column("row_id").to_pylist()
    if not ids:
        raise DataError("a manifest needs at least one row; nothing was selected")
    if len(set(ids)) < len(ids) or None in ids:
        raise DataError(f"{len(ids) - len(set(ids))} row ids repeat; each row needs its own")
    for row_id, messages in zip(ids, decode_messages(rows.column("messages")), strict=True):
        if not any(_answers(m) for m in messages):
            raise DataError(f"row {row_id} has no assistant answer, so nothing to train on")
    weights = [1.0 if w is None else w for w in rows.column("weight").to_pylist()]
    bad = [i for i, w in zip(ids, weights, strict=True) if not math.isfinite(w) or w < 0]
    if bad or sum(weights) <= 0:
        where = f"row {bad[0]}" if bad else "all rows together"
        raise DataError(f"weights must be finite, >= 0 and not all 0; {where} is not so")
    if heldout is not None:
        _check_disjoint(rows, heldout)


def _check_disjoint(rows: pa.Table, heldout: pa.Table) -> None:
    shared = set(rows.column("row_id").to_pylist()) & set(heldout.column("row_id").to_pylist())
    if shared:
        raise DataError(f"{len(shared)} held-out row ids are training rows too, e.g. {min(shared)}")
    known = set(contents(rows))
    same = [
        i
        for i, c in zip(heldout["row_id"].to_pylist(), contents(heldout), strict=True)
        if c in known
    ]
    if same:
        raise DataError(
            f"{len(same)} held-out rows have the content of a training row, e.g. {same[0]}: "
            "leave them out of one of the two"
        )


def _answers(message: Mapping[str, Any]) -> bool:
    if message["role"] != "assistant":
        return False
    return bool((message["content"] or "").strip() or message.get("tool_calls"))


def _all_single_turn(rows: pa.Table) -> bool:
    pairs = zip(decode_messages(rows["messages"]), decode_tools(rows["tools"]), strict=True)
    return all(single_turn(messages, tools) for messages, tools in pairs)


def _marked(rows: pa.Table) -> bool:
    """Whether some message says itself whether it is trained."""
    return any(m.get("train") is not None for c in decode_messages(rows["messages"]) for m in c)
