"""What the cells of a comparison measured: figures by seed, and differences with intervals.

A figure of a cell is a ratio of sums over the evaluation rows. A command that writes plain numbers
leaves one "row" of weight 1: then only seeds can be resampled.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq

from tamis.errors import DataError, TamisError
from tamis.numerics.bootstrap import Interval
from tamis.numerics.crossed import crossed_difference, seed_difference
from tamis.pipelines.evaluate import ROWS
from tamis.storage.artifact import Artifact
from tamis.trainer.evaluate import COMPARED, figure_terms

# (numerators, denominators), each (seeds, rows).
Terms = tuple[np.ndarray, np.ndarray]
NO_DIFFERENCE = "no difference shown"
# Draws that should lie beyond a bound of a bootstrap interval, so that it is not a matter of luck.
_BEYOND = 10


@dataclass(frozen=True, slots=True)
class Measured:
    """The figures of one method at one budget, by metric, seeds in the order of the comparison.

    `ids` and `groups` (rows,) tell the evaluation rows; without rows both are empty.
    """

    terms: Mapping[str, Terms]
    ids: Sequence[str] = ()
    groups: Sequence[str] = ()

    def each(self, metric: str, rows: np.ndarray | None = None) -> np.ndarray:
        """The figure of every seed (S,), over all rows or those marked."""
        top, bottom = self.terms[metric]
        if rows is not None:
            top, bottom = top[:, rows], bottom[:, rows]
        with np.errstate(invalid="ignore"):
            found: np.ndarray = top.sum(axis=1) / bottom.sum(axis=1)
        return found


def measured(evaluations: Sequence[Artifact]) -> Measured:
    """The figures of some cells, one evaluation a seed. Raises `DataError` if they are of different
    rows, `TamisError` if a command wrote different metrics."""
    if not all((e.path / ROWS).is_file() for e in evaluations):
        return _by_command(evaluations)
    tables = [pq.read_table(e.path / ROWS) for e in evaluations]
    if not all(table["id"].equals(tables[0]["id"]) for table in tables):
        raise DataError("the cells were evaluated on different rows")
    terms: dict[str, Terms] = {}
    for name in COMPARED:
        pairs = [figure_terms(table, name) for table in tables]
        top, bottom = (np.stack([pair[i] for pair in pairs]) for i in (0, 1))
        if bottom.sum(axis=1).all():
            terms[name] = (top, bottom)
    groups = [str(group) for group in tables[0]["group"].to_pylist()]
    return Measured(terms, tables[0]["id"].to_pylist(), groups)


def _by_command(evaluations: Sequence[Artifact]) -> Measured:
    told = [evaluation.facts["metrics"] for evaluation in evaluations]
    names = [name for name in told[0] if all(name in metrics for metrics in told)]
    if not names:
        raise TamisError("evaluate.command wrote no metric that all cells have")
    one = np.ones((len(told), 1))
    return Measured({n: (np.array([[metrics[n]] for metrics in told]), one) for n in names})


def difference(
    a: Measured,
    b: Measured,
    metric: str,
    *,
    level: float,
    seed: int,
    resamples: int,
    rows: np.ndarray | None = None,
) -> Interval:
    """A minus B: (value, low, high), paired by seed and evaluation row, both resampled; over all
    rows or those marked. Without rows paired by seed alone."""
    if not len(a.ids):
        return seed_difference(a.each(metric), b.each(metric), level=level)
    given = [*a.terms[metric], *b.terms[metric]]
    if rows is not None:
        given = [table[:, rows] for table in given]
    enough = max(resamples, math.ceil(2 * _BEYOND / (1 - level)))
    rng = np.random.default_rng(seed)
    return crossed_difference(*given, resamples=enough, level=level, rng=rng)


def verdict(found: Interval, better: str, than: str) -> str:
    """What an interval of a difference says: better, worse, or that none is shown."""
    value, low, high = found
    if low <= 0 <= high:
        return NO_DIFFERENCE
    return f"better than {than}" if (value > 0) == (better == "higher") else f"worse than {than}"


def halves(ids: Sequence[str], groups: Sequence[str]) -> np.ndarray:
    """Mark every other row of each group, in the order of a hash of its id: a boolean (rows,).

    Half A is marked. It hangs on no seed, so that nobody can draw until they like the winner.
    """
    turn = [hashlib.blake2b(f"half\0{one}".encode(), digest_size=16).hexdigest() for one in ids]
    order = np.lexsort((np.array(turn), np.array(groups)))
    marked = np.zeros(len(ids), dtype=bool)
    marked[order[::2]] = True
    return marked
