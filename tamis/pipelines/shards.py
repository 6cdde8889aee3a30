"""Shards: the blocks of rows that scoring works through, each stored as soon as it is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tamis.pipelines.pool_scores import arrow
from tamis.scoring import registry
from tamis.scoring.base import Advance, Scorer
from tamis.storage.artifact import Store
from tamis.storage.signals import KEY, SignalTable

# A shard is what a kill may cost: about a minute for a language model on a CPU.
SHARD_ROWS = 1024


@dataclass(frozen=True, slots=True)
class Shard:
    """Rows of a part of the samples that lack a value: `number` of the part, the block in it.

    `rows` are their places in the part, ascending, `lacking` says for each signal which of them.
    """

    number: int
    block: int
    rows: np.ndarray
    lacking: Mapping[str, np.ndarray]


class Rows(Protocol):
    """Samples to score: a pool, or the rows of a fold."""

    @property
    def parts(self) -> Sequence[Path]:
        """The files they lie in."""
        ...

    def __len__(self) -> int:
        """How many rows."""
        ...

    def batch(self, number: int) -> pa.Table:
        """The samples of a part, with what a scorer reads."""
        ...


@dataclass(frozen=True)
class Job:
    """Some scorers that are computed together, over all rows. Can be sent to other processes:
    models are loaded where the first shard is scored.

    `keys` and `identities` are those of the signals, by name.
    """

    store: Store
    rows: Rows
    scorers: Mapping[str, Scorer]
    keys: Mapping[str, str]
    identities: Mapping[str, Mapping[str, Any]]

    def todo(self) -> list[Shard]:
        """The shards in which some row lacks a value. Rows of equal content count once.

        Their borders depend on the part alone, not on what is missing: so a run that was killed
        and started again computes the same batches and the same values as one that was not.
        """
        stored = {name: table.keys() for name, table in self._tables.items()}
        found = []
        for number in range(len(self.rows.parts)):
            keys = self.rows.batch(number).column(KEY).combine_chunks()
            first = np.zeros(len(keys), dtype=bool)
            first[np.unique(np.asarray(keys, dtype=object), return_index=True)[1]] = True
            lacking = {}
            for name, there in stored.items():
                lacking[name] = first & ~np.asarray(pc.is_in(keys, value_set=there))
                # The same content in a later part is not scored again.
                stored[name] = pa.concat_arrays([there, keys.filter(pa.array(lacking[name]))])
            rows = np.flatnonzero(np.any(list(lacking.values()), axis=0))
            for block in np.unique(rows // SHARD_ROWS).tolist():
                mine = rows[rows // SHARD_ROWS == block]
                found.append(Shard(number, block, mine, {n: m[mine] for n, m in lacking.items()}))
        return found

    def run(self, shard: Shard, advance: Advance) -> int:
        """Score the rows of a shard; returns how many values were stored."""
        rows = self.samples(shard)
        keys = rows.column(KEY).combine_chunks()
        values = self.group.score(rows.combine_chunks().to_batches()[0], advance=advance)
        for name, table in self._tables.items():
            found = pa.table({KEY: keys, **arrow(values[name])})
            wanted = found.filter(pa.array(shard.lacking[name]))
            if len(wanted):
                table.append(wanted, self.identities[name])
        return sum(int(mask.sum()) for mask in shard.lacking.values())

    def samples(self, shard: Shard) -> pa.Table:
        """The rows of a shard, with what a scorer reads."""
        return self._part(shard.number).take(pa.array(shard.rows))

    @cached_property
    def group(self) -> registry.Group:
        """The scorers, with the models they share."""
        (group,) = registry.group(self.scorers)
        return group

    @cached_property
    def _tables(self) -> dict[str, SignalTable]:
        return {name: SignalTable(self.store, name, self.keys[name]) for name in self.scorers}

    def _part(self, number: int) -> pa.Table:
        """A part of the samples; the last one stays in memory for the next shard."""
        if self._last.get(number) is None:
            self._last.clear()
            self._last[number] = self.rows.batch(number)
        return self._last[number]

    @cached_property
    def _last(self) -> dict[int, pa.Table]:
        return {}
