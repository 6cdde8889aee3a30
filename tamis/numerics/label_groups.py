"""Rows with the same labels as queues: the heaviest row of each competes, the others wait."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

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

    O(n log n) to build, memory a few numbers a row.
    """

    def __init__(self, labels: Labels, weight: F64) -> None:
        group = _groups(labels)
        count = int(group.max(initial=-1)) + 1
        self.rows = np.lexsort((np.arange(len(weight)), -weight, group)).astype(np.int64)
        self.end = np.cumsum(np.bincount(group, minlength=count))
        self.at = np.concatenate([[0], self.end[:-1]]).astype(np.int64)[:count]
        first = self.rows[self.at]
        sizes = np.diff(labels.indptr)[first]
        self.indptr = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        inside = np.arange(self.indptr[-1]) - np.repeat(self.indptr[:-1], sizes)
        self.labels = labels.values[np.repeat(labels.indptr[first], sizes) + inside]
        self.weight = weight
        # As lists too: single numbers are read from these far more often than arrays.
        self.groups: list[int] = group.tolist()
        self.weights: list[float] = weight.tolist()

    def heads(self) -> tuple[Rows, Rows]:
        """The groups that still have rows, and the head of each."""
        groups = np.flatnonzero(self.at < self.end)
        return groups, self.rows[self.at[groups]]

    def sums(self, worth: F64, groups: Rows) -> F64:
        """Sum of `worth` over the labels of each group."""
        total = np.zeros(len(self.at))
        some = np.diff(self.indptr) > 0
        if some.any():
            total[some] = np.add.reduceat(worth[self.labels], self.indptr[:-1][some])
        return total[groups]

    def labels_of(self, groups: Rows) -> dict[int, list[int]]:
        """The labels of some groups as plain lists."""
        starts, ends = self.indptr[groups].tolist(), self.indptr[groups + 1].tolist()
        return {
            group: self.labels[start:end].tolist()
            for group, start, end in zip(groups.tolist(), starts, ends, strict=True)
        }

    def take(self, row: int) -> int | None:
        """Remove the head `row` of its group; the row that follows it, if any."""
        group = self.groups[row]
        self.at[group] += 1
        at = self.at[group]
        return int(self.rows[at]) if at < self.end[group] else None


def _groups(labels: Labels) -> Rows:
    """Number the distinct label sets: the group of each row."""
    n = len(labels.indptr) - 1
    sizes = np.diff(labels.indptr)
    group = np.zeros(n, dtype=np.int64)
    many = int(labels.values.max(initial=0)) + 2
    for position in range(int(sizes.max(initial=0))):
        has = sizes > position
        step = np.zeros(n, dtype=np.int64)
        step[has] = labels.values[labels.indptr[:-1][has] + position] + 1
        group = np.unique(group * many + step, return_inverse=True)[1].astype(np.int64)
    return group
