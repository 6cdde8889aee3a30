"""Rows with the same labels as queues: the heaviest row of each competes, the others wait."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tamis.numerics.greedy import rounded_all
from tamis.numerics.ragged import Ragged

F64 = NDArray[np.float64]
Rows = NDArray[np.int64]


class Labels(Protocol):
    """Labels of rows: row i owns `values[indptr[i]:indptr[i + 1]]`, each label once, sorted."""

    @property
    def indptr(self) -> Rows: ...
    @property
    def values(self) -> Rows: ...


class Queues:
    """One queue for each distinct set of labels, heaviest row first, lowest row on ties.

    Queue g holds `rows[at[g]:end[g]]` and has the labels `labels[indptr[g]:indptr[g + 1]]`, at
    least one: rows without labels are in no queue. Weights that are equal but for rounding tie.
    O(n log n) to build, memory a few numbers a row.
    """

    def __init__(self, labels: Labels, weight: F64) -> None:
        sizes = np.diff(labels.indptr)
        some = np.flatnonzero(sizes > 0)
        group = _groups(labels, some, sizes)
        self.rows: Rows = some[np.lexsort((-rounded_all(weight[some]), group))]
        self.end: Rows = np.cumsum(np.bincount(group)).astype(np.int64)
        self.at: Rows = np.concatenate([[0], self.end[:-1]]).astype(np.int64)[: len(self.end)]
        first = self.rows[self.at]
        own = Ragged(labels.indptr, labels.values)[first]
        self.indptr, self.labels, self.weight = own.indptr, own.values, weight

    def heads(self, groups: Rows) -> tuple[Rows, Rows]:
        """Which of these queues still have rows, and the head of each."""
        groups = groups[self.at[groups] < self.end[groups]]
        return groups, self.rows[self.at[groups]]

    def after(self, group: int) -> int | None:
        """Remove the head of a queue; the row that follows it, if any."""
        self.at[group] += 1
        at = self.at[group]
        return int(self.rows[at]) if at < self.end[group] else None

    def sums(self, worth: F64, groups: Rows) -> F64:
        """Sum of `worth` over the labels of each of these queues."""
        if not len(groups):
            return np.empty(0)
        own = self if len(groups) == len(self.at) else self.labels_of(groups)
        labels = own.labels if isinstance(own, Queues) else own.values
        total: F64 = np.add.reduceat(worth[labels], own.indptr[:-1])
        return total

    def labels_of(self, groups: Rows) -> Ragged:
        """The labels of some queues."""
        return Ragged(self.indptr, self.labels)[groups]


def _groups(labels: Labels, rows: Rows, sizes: Rows) -> Rows:
    """Number the distinct label sets of the given rows, each with at least one label."""
    if not len(rows):
        return np.empty(0, dtype=np.int64)
    # A set is known by the sum of random numbers of its labels, which is then made sure of.
    rng = np.random.default_rng(0)
    number = rng.integers(2**64, size=int(labels.values.max()) + 1, dtype=np.uint64)
    key = np.add.reduceat(number[labels.values], labels.indptr[rows])
    order = np.argsort(key, kind="stable")
    change = key[order[1:]] != key[order[:-1]]
    group = np.empty(len(rows), dtype=np.int64)
    group[order] = np.concatenate([[0], np.cumsum(change)])
    first = rows[order[np.concatenate([[True], change])]]
    if not _same(labels, sizes, rows, first[group]):
        return _groups_by_position(labels, rows, sizes)
    return group


def _same(labels: Labels, sizes: Rows, rows: Rows, others: Rows) -> bool:
    """Whether each row has the labels of the other."""
    moved = rows != others
    rows, others = rows[moved], others[moved]
    if not np.array_equal(sizes[rows], sizes[others]):
        return False
    given = Ragged(labels.indptr, labels.values)
    return np.array_equal(given[rows].values, given[others].values)


def _groups_by_position(labels: Labels, rows: Rows, sizes: Rows) -> Rows:
    """The same one label after another, without chance; several times slower."""
    group = np.zeros(len(rows), dtype=np.int64)
    many = int(labels.values.max()) + 2
    for position in range(int(sizes.max())):
        has = sizes[rows] > position
        step = np.zeros(len(rows), dtype=np.int64)
        step[has] = labels.values[labels.indptr[rows[has]] + position] + 1
        group = np.unique(group * many + step, return_inverse=True)[1].astype(np.int64)
    return group
