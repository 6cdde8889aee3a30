"""Greedy by what a row really adds to the information: lazily, as each gain costs more."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tamis.numerics import greedy
from tamis.numerics.blocked import CELLS
from tamis.numerics.gradient_information import Concave, Csr
from tamis.numerics.label_groups import Queues

F64 = NDArray[np.float64]
Rows = NDArray[np.int64]


def order(spread: Csr, phi: Concave, queues: Queues, k: int) -> tuple[Rows, F64, F64]:
    """Up to `k` rows while gains are above 0, their gains, and the information after each."""
    state = Exact(spread, phi, queues)
    groups, heads = queues.heads(np.arange(len(queues.at)))
    group = np.empty(len(queues.weight), dtype=np.int64)
    group[queues.rows] = np.repeat(np.arange(len(queues.at)), queues.end - queues.at)

    def gains(rows: list[int]) -> list[float]:
        found: list[float] = state.gains(group[rows], queues.weight[rows]).tolist()
        return found

    def successor(row: int) -> tuple[int, float] | None:
        following = queues.after(int(group[row]))
        return None if following is None else (following, gains([following])[0])

    index, gain = greedy.lazy(
        heads,
        state.gains(groups, queues.weight[heads]),
        gains,
        lambda row: state.add(int(group[row]), float(queues.weight[row])),
        k,
        batch=16,
        successor=successor,
    )
    some = int(np.argmax(gain <= 0)) if (gain <= 0).any() else len(gain)
    return index[:some], gain[:some], np.asarray(state.curve[:some])


class Exact:
    """What each label holds, and what rows of some queues would add."""

    def __init__(self, spread: Csr, phi: Concave, queues: Queues) -> None:
        from scipy.sparse import csr_matrix

        size = len(spread.indptr) - 1
        self.phi = phi
        self.spread = csr_matrix((spread.shares, spread.columns, spread.indptr), (size, size))
        own = (np.ones(len(queues.labels)), queues.labels, queues.indptr)
        self.owned = csr_matrix(own, (len(queues.at), size))
        self.amount = np.zeros(size)
        self.value = phi.values(self.amount)
        self.curve: list[float] = []

    def gains(self, groups: Rows, weight: F64) -> F64:
        """What a row of each queue, of the given weight, would add; in blocks."""
        gains = np.empty(len(groups))
        reach = 1 + self.spread.nnz // max(1, self.spread.shape[0])
        step = max(16, CELLS // (8 * reach))
        for start in range(0, len(groups), step):
            here = slice(start, start + step)
            parts = self._parts(groups[here])
            more = np.repeat(weight[here], np.diff(parts.indptr)) * parts.data
            more = self.phi.values(self.amount[parts.indices] + more) - self.value[parts.indices]
            gains[here] = np.add.reduceat(more, parts.indptr[:-1])
        return gains

    def add(self, group: int, weight: float) -> None:
        """Take a row of a queue."""
        parts = self._parts(np.array([group]))
        before = self.value[parts.indices]
        self.amount[parts.indices] += weight * parts.data
        self.value[parts.indices] = self.phi.values(self.amount[parts.indices])
        more = float((self.value[parts.indices] - before).sum())
        self.curve.append((self.curve[-1] if self.curve else 0.0) + more)

    def _parts(self, groups: Rows) -> Any:
        """What one unit on the labels of each queue becomes after spreading."""
        parts = self.owned[groups] @ self.spread
        parts.sort_indices()
        return parts
