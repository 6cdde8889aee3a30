"""Benchmark items: the texts that rows are held against."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
import orjson
from numpy.typing import NDArray

from tamis.errors import DataError, RecipeError
from tamis.numerics.ragged import Ragged
from tamis.scoring import shingles

# A text of fewer words says too little to be held against anything: an answer "B", a year, a name.
SHORTEST = 8
# So much of the matched text is told.
SHOWN = 200

_HUB = "hf:"
_KINDS = (".parquet", ".jsonl", ".ndjson", ".json")
_EXPECTED = f"a file ({', '.join(_KINDS)}) or hf:NAME?config=...&split=...&revision=..."


@dataclass(frozen=True, slots=True)
class Texts:
    """The distinct texts of benchmarks that have `SHORTEST` words or more, in the order of the
    files, with the item (`file:row`, rows from 1) each first stands in, and their tokens."""

    texts: list[str]
    items: list[str]
    tokens: Ragged
    # Texts that were left out because they are too short.
    short: int

    def digest(self) -> str:
        """32 hex digits over the texts and items."""
        total = hashlib.blake2b(digest_size=16)
        for item, text in zip(self.items, self.texts, strict=True):
            total.update(f"{item}\0{text}\0".encode("utf-8", "replace"))
        return total.hexdigest()

    def matched(self, number: NDArray[np.int64]) -> dict[str, np.ndarray]:
        """The columns `item` and `matched` of rows by the number of their text, -1 for none."""
        shown = [" ".join(text.split())[:SHOWN] for text in self.texts]
        item, matched = np.full((2, len(number)), None, dtype=object)
        for row in np.flatnonzero(number >= 0).tolist():
            item[row], matched[row] = self.items[number[row]], shown[number[row]]
        return {"matched": matched, "item": item}


def check(against: Sequence[str]) -> None:
    """Raise `RecipeError` if nothing is named, a file is missing or its kind is not known."""
    if not against:
        raise RecipeError(f"contamination needs against: a list, each {_EXPECTED}")
    for name in against:
        if name.startswith(_HUB):
            _hub(name)
        elif not Path(name).is_file():
            raise RecipeError(f"contamination: there is no file {name}; expected {_EXPECTED}")
        elif Path(name).suffix.lower() not in _KINDS:
            raise RecipeError(f"contamination: cannot read {name}; expected {_EXPECTED}")


def read(against: Sequence[str], columns: Sequence[str] | None) -> Texts:
    """Every text of every item, whatever it lies in: a column of texts, messages, a list of
    choices.

    `columns` restricts it to some. Raises `DataError` for a file that cannot be read, lacks a named
    column or holds no text that is long enough.
    """
    found: dict[str, str] = {}
    for name in against:
        for number, row in enumerate(_rows(name), 1):
            for text in _texts(_chosen(row, columns, f"{name}:{number}")):
                found.setdefault(text, f"{_shown(name)}:{number}")
    texts, items = list(found), list(found.values())
    tokens = _tokens(texts)
    sizes = np.diff(tokens.indptr)
    # Texts that differ by case, space and marks alone are one.
    first = np.sort(np.unique(shingles.sequences(tokens), return_index=True)[1])
    kept = first[sizes[first] >= SHORTEST]
    if not len(kept):
        raise DataError(
            f"contamination: no text of {', '.join(against)} has {SHORTEST} words or more"
        )
    return Texts(
        [texts[i] for i in kept.tolist()],
        [items[i] for i in kept.tolist()],
        tokens[kept],
        int((sizes < SHORTEST).sum()),
    )


def _tokens(texts: Sequence[str]) -> Ragged:
    parts = [shingles.tokens(texts[a:b]) for a, b in shingles.blocks(texts)]
    sizes = np.concatenate([np.zeros(1, dtype=np.int64), *(np.diff(p.indptr) for p in parts)])
    values = [np.empty(0, dtype=np.uint64), *(p.values for p in parts)]
    return Ragged(np.cumsum(sizes), np.concatenate(values))


def _rows(name: str) -> Iterator[dict[str, Any]]:
    try:
        if name.startswith(_HUB):
            yield from _hub_rows(name)
        elif Path(name).suffix.lower() == ".parquet":
            import pyarrow.parquet as pq

            for batch in pq.ParquetFile(name).iter_batches(1024):
                yield from batch.to_pylist()
        else:
            yield from _json_rows(name)
    except (OSError, ValueError) as error:
        words = " ".join(str(error).split())[:300]
        raise DataError(f"contamination: {name} cannot be read: {words}") from error


def _json_rows(name: str) -> Iterator[dict[str, Any]]:
    """The objects of a file of one a line, or of one list of them."""
    if Path(name).suffix.lower() == ".json":
        content = orjson.loads(Path(name).read_bytes())
        rows = content if isinstance(content, list) else [content]
    else:
        with open(name, "rb") as file:
            rows = [orjson.loads(line) for line in file if line.strip()]
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise DataError(f"contamination: {name}:{number} is no object with named values")
        yield row


def _hub_rows(name: str) -> Iterator[dict[str, Any]]:
    import datasets
    from datasets.exceptions import DatasetsError

    given = _hub(name)
    try:
        yield from datasets.load_dataset(
            given["name"],
            given.get("config"),
            split=given.get("split", "test"),
            revision=given.get("revision"),
        )
    except DatasetsError as error:
        raise ValueError(str(error)) from error


def _hub(name: str) -> dict[str, str]:
    """The parts of hf:NAME?config=...&split=...&revision=..."""
    path, _, query = name.removeprefix(_HUB).partition("?")
    given = dict(parse_qsl(query))
    if not path or set(given) - {"config", "split", "revision"}:
        raise RecipeError(
            f"contamination: {name!r} is no name of a benchmark; expected {_EXPECTED}"
        )
    return {"name": path, **given}


def _shown(name: str) -> str:
    """A name without a path, so that results do not depend on where the file lies."""
    return name if name.startswith(_HUB) else Path(name).name


def _chosen(row: dict[str, Any], columns: Sequence[str] | None, where: str) -> list[Any]:
    if columns is None:
        return list(row.values())
    for column in columns:
        if column not in row:
            raise DataError(
                f"contamination: {where} has no column {column!r}; it has {', '.join(row)}"
            )
    return [row[column] for column in columns]


def _texts(value: Any) -> Iterator[str]:
    """The texts in a value, however deep."""
    if isinstance(value, str):
        if value.strip():
            yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _texts(part)
