"""Of what a report tells: one run, its selection, and what the store knows of its rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from tamis.storage.catalogue import OpenStore

# Distributions of larger pools are drawn from so many rows. Ids are hashes, so the first of them
# are a random sample, and the same one each time.
MOST_ROWS = 100_000
TOKENS = "tokens.total"
SHOWN_VALUES = 6

Run = Mapping[str, Any]


@dataclass(frozen=True)
class Subject:
    """A run (its JSON columns decoded), the key of its selection if it made one, the signals that
    are numbers, the scorer of each signal, whether texts of the data may stand on the page, and the
    last id of the sample of rows (empty: all rows)."""

    store: OpenStore
    run: Run
    key: str | None
    signals: tuple[str, ...]
    scorers: Mapping[str, str]
    texts: bool
    last: str

    def rows(self, query: str, **parameters: Any) -> list[dict[str, Any]]:
        """The answer to a query that may name `$key`."""
        found: list[dict[str, Any]] = self.table(query, **parameters).to_pylist()
        return found

    def table(self, query: str, **parameters: Any) -> pa.Table:
        """The same as an Arrow table."""
        here = {"key": self.key, "last": self.last}
        named = {name: value for name, value in here.items() if f"${name}" in query}
        return self.store.sql(query, {**named, **parameters})

    def made_by(self, *scorers: str) -> list[str]:
        """The names of the signals that these scorers made."""
        return [name for name, scorer in self.scorers.items() if scorer in scorers]

    def text(self, text: str | None) -> str:
        """A text of the data, or nothing where none may be shown."""
        return (text or "") if self.texts else ""

    @property
    def settings(self) -> Mapping[str, Any]:
        """The recipe as it ran."""
        return self.run["settings"] or {}


def subject(store: OpenStore, run: Run, *, texts: bool) -> Subject:
    """Look at a run, given as a row of the view `runs`."""
    decoded = {n: _json(run[n]) for n in ("stages", "metrics", "settings", "versions")}
    key = run["selection"]
    signals = store.sql("select distinct signal from signals_long order by signal")
    names = tuple(str(name) for name in signals.column("signal").to_pylist())
    return Subject(store, {**run, **decoded}, key, names, store.scorers(), texts, _last(store, key))


def used(subject: Subject) -> list[str]:
    """The signals that the recipe's filters and selection name."""
    settings = subject.settings
    named = {f["column"] for f in settings.get("filters") or []}
    for option in ((settings.get("select") or {}).get("options") or {}).values():
        named |= {str(x) for x in (option if isinstance(option, list) else [option])}
    return [name for name in subject.signals if name in named][:SHOWN_VALUES]


def ordered(subject: Subject) -> list[str]:
    """All signals; what the decision was made by stands first."""
    first = used(subject)
    return [*first, *(name for name in subject.signals if name not in first)]


def floats(table: pa.Table, name: str) -> np.ndarray:
    """A column as float64, NaN for null."""
    values: np.ndarray = table.column(name).to_numpy(zero_copy_only=False)
    return values.astype(np.float64)


def quoted(name: str) -> str:
    """A name of a signal or field as SQL."""
    return '"' + name.replace('"', '""') + '"'


def _last(store: OpenStore, key: str | None) -> str:
    rows = store.sql(
        "select id from selections where selection = $key order by id offset $skip limit 1",
        {"key": key, "skip": MOST_ROWS - 1},
    ).to_pylist()
    return str(rows[0]["id"]) if rows else ""


def _json(value: Any) -> Any:
    return orjson.loads(value) if isinstance(value, str) else value
