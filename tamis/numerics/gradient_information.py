"""Greedy by the gradient of the information: all gains of a window of queues at each pick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tamis.numerics.greedy import rounded_all
from tamis.numerics.label_groups import Queues

F64 = NDArray[np.float64]
Rows = NDArray[np.int64]

# Queues of which every gain is computed at each pick, and those that they are chosen from.
_WINDOW = 512
_FIELD = 32 * _WINDOW
# Gains within this factor of the largest may round to the same key.
_NEAR = 1 - 2.0**-38


class Concave(Protocol):
    """phi and phi' of arrays."""

    def values(self, x: F64) -> F64: ...
    def slopes(self, x: F64) -> F64: ...


class Csr(Protocol):
    """CSR rows of the spread."""

    @property
    def indptr(self) -> Rows: ...
    @property
    def columns(self) -> Rows: ...
    @property
    def shares(self) -> F64: ...


@dataclass(frozen=True, slots=True)
class Field:
    """Some queues and the best of all others: its key and its row."""

    groups: Rows
    key: float = -1.0
    row: int = -1


class Gradient:
    """The state of one run: x, phi'(x) and G = P phi'(x) of each label."""

    def __init__(self, spread: Csr, phi: Concave) -> None:
        self.spread, self.phi = spread, phi
        self.sizes = np.diff(spread.indptr)
        self.bounds: list[int] = spread.indptr.tolist()
        self.amount = np.zeros(len(self.sizes))
        self.value = phi.values(self.amount)
        self.slope = phi.slopes(self.amount)
        self.worth = self._all_worth()
        self.total = 0.0
        # Labels that changed and what they hold since, pick after pick.
        self.changed: list[list[Rows]] = []
        self.holds: list[F64] = []

    def order(self, queues: Queues, k: int) -> tuple[Rows, F64, F64]:
        """Up to `k` rows while gains are above 0, their gains, and the information after each.

        All gains of a window of queues are computed at each pick, as long as the winner stays
        above all others: gains never rise, so what those were when the window was made bounds
        them. Windows come from a wider field, and fields from all queues, in the same way.
        """
        index: list[int] = []
        gain: list[float] = []
        curve = [np.empty(0)]
        everything, size = Field(np.arange(len(queues.at))), _FIELD
        while len(index) < k:
            field, began = self._best(queues, everything, size), len(index)
            width = _WINDOW
            while len(index) < k:
                window, before = self._best(queues, field, width), len(index)
                self._run(window, queues, k, index, gain)
                curve.append(self._curve())
                if (window.key, window.row) == (field.key, field.row):
                    break
                # Many heads of nearly equal worth: a wider window saves choosing it again.
                width *= 2 if len(index) - before < width // 16 else 1
            if len(index) == began:
                break
            size *= 2 if len(index) - began < size // 16 else 1
        return np.asarray(index, dtype=np.int64), np.asarray(gain), np.concatenate(curve)

    def _best(self, queues: Queues, field: Field, size: int) -> Field:
        """The `size` queues of a field with the largest gains, lowest head first on ties."""
        groups, heads = queues.heads(field.groups)
        gains = rounded_all(queues.weight[heads] * queues.sums(self.worth, groups))
        some = gains > 0
        groups, heads, gains = groups[some], heads[some], gains[some]
        if len(groups) <= 2 * size:
            return Field(groups, field.key, field.row)
        least = np.partition(gains, len(gains) - size)[len(gains) - size]
        inside = gains > least
        tied = np.flatnonzero(gains == least)
        tied = tied[np.argsort(heads[tied])]
        inside[tied[: size - np.count_nonzero(inside)]] = True
        key = float(gains[~inside].max())
        row = int(heads[~inside & (gains == key)].min())
        if (field.key, -field.row) > (key, -row):
            key, row = field.key, field.row
        return Field(groups[inside], key, row)

    def _run(
        self, window: Field, queues: Queues, k: int, index: list[int], gain: list[float]
    ) -> None:
        """Pick from a window until another queue may win."""
        if not len(window.groups):
            return
        own = queues.labels_of(window.groups)
        rows = queues.rows[queues.at[window.groups]]
        weight = queues.weight[rows]
        starts, bounds = own.indptr[:-1], own.indptr.tolist()
        while len(index) < k:
            gains = np.add.reduceat(self.worth[own.values], starts)
            gains *= weight
            place = int(gains.argmax())
            best = float(gains[place])
            if np.count_nonzero(gains >= best * _NEAR) > 1:
                place = _lowest(gains, rows)
                best = float(gains[place])
            row = int(rows[place])
            if best <= 0 or _loses(best, row, window):
                break
            index.append(row)
            gain.append(best)
            labels = own.values[bounds[place] : bounds[place + 1]].tolist()
            self._add(labels, float(weight[place]))
            following = queues.after(int(window.groups[place]))
            weight[place] = -1.0 if following is None else queues.weight[following]
            rows[place] = -1 if following is None else following

    def _add(self, labels: list[int], weight: float) -> None:
        """Take a row: x of the labels it reaches, then what depends on them."""
        touched: list[Rows] = []
        for label in labels:
            here = slice(self.bounds[label], self.bounds[label + 1])
            columns = self.spread.columns[here]
            amount = self.amount[columns]
            amount += weight * self.spread.shares[here]
            self.amount[columns] = amount
            touched.append(columns)
            self.holds.append(amount)
        self.changed.append(touched)
        reached = touched[0] if len(touched) == 1 else np.concatenate(touched)
        self.slope[reached] = self.phi.slopes(self.amount[reached])
        # From scratch, not by differences, which would drift and break ties. The graph is
        # symmetric, so those whose worth depends on a label are its neighbours.
        if self.sizes[reached].sum() > len(self.worth):
            self.worth = self._all_worth()
            return
        near = self.spread.columns[self._entries(reached)[0]]
        self.worth[near] = self._worth(near)

    def _all_worth(self) -> F64:
        if not len(self.sizes):
            return np.empty(0)
        parts = self.slope[self.spread.columns]
        parts *= self.spread.shares
        worth: F64 = np.add.reduceat(parts, self.spread.indptr[:-1])
        return worth

    def _worth(self, labels: Rows) -> F64:
        entries, starts = self._entries(labels)
        parts = self.slope[self.spread.columns[entries]]
        parts *= self.spread.shares[entries]
        worth: F64 = np.add.reduceat(parts, starts)
        return worth

    def _entries(self, labels: Rows) -> tuple[Rows, Rows]:
        """Where the rows of the spread of some labels lie, and where each starts among these."""
        sizes = self.sizes[labels]
        ends = sizes.cumsum()
        starts = ends - sizes
        offset = self.spread.indptr[labels] - starts
        return np.arange(ends[-1]) + offset.repeat(sizes), starts

    def _curve(self) -> F64:
        """The information after each pick since the last call."""
        picks = len(self.changed)
        if not picks:
            return np.empty(0)
        labels = np.concatenate([part for touched in self.changed for part in touched])
        counts = [sum(len(part) for part in touched) for touched in self.changed]
        order = np.argsort(labels, kind="stable")
        label = labels[order]
        value = self.phi.values(np.concatenate(self.holds)[order])
        first = np.concatenate([[True], label[1:] != label[:-1]])
        before = np.where(first, self.value[label], np.roll(value, 1))
        added = np.bincount(
            np.repeat(np.arange(picks), counts)[order], value - before, minlength=picks
        )
        last = np.roll(first, -1)
        self.value[label[last]] = value[last]
        curve = np.asarray(self.total + np.cumsum(added), dtype=np.float64)
        self.total = float(curve[-1])
        self.changed, self.holds = [], []
        return curve


def _lowest(gains: F64, row: Rows) -> int:
    """The place of the largest gain, lowest row among those equal but for rounding."""
    near = np.flatnonzero(gains >= gains.max() * _NEAR)
    keys = rounded_all(gains[near])
    near = near[keys == keys.max()]
    return int(near[row[near].argmin()])


def _loses(best: float, row: int, window: Field) -> bool:
    """Whether a queue outside the window may be better, or equal with a lower row."""
    if best * _NEAR > window.key:
        return False
    key = float(rounded_all(np.array([best]))[0])
    return key < window.key or (key == window.key and row > window.row)
