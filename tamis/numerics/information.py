"""Information of labels that rows give and a graph spreads, maximised greedily."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tamis.numerics import greedy
from tamis.numerics.label_graph import LabelGraph
from tamis.numerics.label_groups import Labels, Queues

F64 = NDArray[np.float64]
Rows = NDArray[np.int64]

# Heads in the heap at a time: small enough to stay in the cache.
_WINDOW = 4096


@dataclass(frozen=True, slots=True)
class Phi:
    """A concave function of the information of one label: `pow` or `exp`."""

    kind: Literal["pow", "exp"]
    exponent: float
    offset: float
    rate: float

    def value(self, x: float) -> float:
        """phi(x)."""
        if self.kind == "exp":
            return 1 - math.exp(-self.rate * x)
        return float((x + self.offset) ** self.exponent)

    def slope(self, x: float) -> float:
        """phi'(x)."""
        if self.kind == "exp":
            return self.rate * math.exp(-self.rate * x)
        return float(self.exponent * (x + self.offset) ** (self.exponent - 1))

    def values(self, x: F64) -> F64:
        """phi of an array."""
        if self.kind == "exp":
            return 1 - np.exp(-self.rate * x)
        grown: F64 = (x + self.offset) ** self.exponent
        return grown


class Information:
    """The state of one greedy run: information x of each label and its worth to new rows.

    Row i with weight w spreads w * sum over its labels p of P[p, q] to label q, where
    P[p, q] = M[p, q] / sum_r M[r, q] and M is the graph with off-diagonal entries times alpha.
    The gradient gain of a row is w * sum over its labels of G, G = P phi'(x); it never rises, as
    phi' falls and nothing is negative, so lazy greedy is exact for it too.
    """

    def __init__(self, graph: LabelGraph, phi: Phi, alpha: float) -> None:
        size = len(graph.indptr) - 1
        rows = np.repeat(np.arange(size), np.diff(graph.indptr))
        values = np.where(rows == graph.indices, graph.values, alpha * graph.values)
        degree = np.bincount(graph.indices, values, minlength=size)
        self.phi = phi
        shares = (values / degree[graph.indices]).tolist()
        bounds = zip(graph.indptr[:-1].tolist(), graph.indptr[1:].tolist(), strict=True)
        columns = graph.indices.tolist()
        # Plain lists: a pick touches a handful of numbers, where arrays would cost more.
        self.spread = [list(zip(columns[a:b], shares[a:b], strict=True)) for a, b in bounds]
        self.amount = [0.0] * size
        self.slope = [phi.slope(0.0)] * size
        self.worth = [self._worth(label) for label in range(size)]
        self.total = 0.0
        self.curve: list[float] = []

    def _worth(self, label: int) -> float:
        slope, total = self.slope, 0.0
        for other, part in self.spread[label]:
            total += part * slope[other]
        return total

    def order(self, labels: Labels, weight: F64, k: int, *, exact: bool) -> tuple[Rows, F64]:
        """The first `k` rows of the greedy order and their gains; `curve` grows with each.

        Rows with the same labels differ by their weight only, so of each such group just the
        best row left competes. And of these only the best few thousand are kept in a heap: gains
        never rise, so none of the others can win while the winner stays above the best of them.
        """
        queues = Queues(labels, weight)
        index, gain = [np.empty(0, dtype=np.int64)], [np.empty(0)]
        left, size = min(k, len(weight)), _WINDOW
        while left > 0:
            groups, heads = queues.heads()
            if exact:
                # One by one is slow, so once only: everything is inside.
                bounds = np.array(self._exact_gains(queues, groups, heads))
                size = len(bounds)
            else:
                bounds = weight[heads] * queues.sums(np.asarray(self.worth), groups)
            bounds = greedy.rounded_all(bounds)
            above = _window(bounds, size)
            inside = bounds > above
            rows, gains = self._run(
                queues,
                groups[inside],
                heads[inside],
                bounds[inside],
                left,
                above=above,
                exact=exact,
            )
            index.append(rows)
            gain.append(gains)
            left -= len(rows)
            if len(rows) < size // 16:
                # Many heads of nearly equal worth: a wider window saves looking at all again.
                size *= 2
            if len(gains) and gains[-1] <= 0:
                break
        return self._filled(np.concatenate(index), np.concatenate(gain), len(weight), k)

    def _run(
        self,
        queues: Queues,
        groups: Rows,
        heads: Rows,
        bounds: F64,
        k: int,
        *,
        above: float,
        exact: bool,
    ) -> tuple[Rows, F64]:
        """Lazy greedy among some groups, as long as the winner stays above all others."""
        owned = queues.labels_of(groups)
        group, weight = queues.groups, queues.weights
        measure = self._exact if exact else self._gradient

        def gains(rows: list[int]) -> list[float]:
            return [measure(owned[group[row]], weight[row]) for row in rows]

        def add(row: int) -> None:
            self._add(owned[group[row]], weight[row])

        def successor(row: int) -> tuple[int, float] | None:
            following = queues.take(row)
            return None if following is None else (following, gains([following])[0])

        return greedy.lazy(heads, bounds, gains, add, k, successor=successor, above=above)

    def _exact_gains(self, queues: Queues, groups: Rows, heads: Rows) -> list[float]:
        owned = queues.labels_of(groups)
        pairs = zip(groups.tolist(), queues.weight[heads].tolist(), strict=True)
        return [self._exact(owned[group], weight) for group, weight in pairs]

    def _gradient(self, labels: list[int], weight: float) -> float:
        worth = self.worth
        total = 0.0
        for label in labels:
            total += worth[label]
        return weight * total

    def _exact(self, labels: list[int], weight: float) -> float:
        amount, value = self.amount, self.phi.value
        total = 0.0
        for label, part in sorted(self._parts(labels).items()):
            total += value(amount[label] + weight * part) - value(amount[label])
        return total

    def _parts(self, labels: list[int]) -> dict[int, float]:
        """What one unit on `labels` becomes after spreading."""
        if len(labels) == 1:
            return dict(self.spread[labels[0]])
        parts: dict[int, float] = {}
        for label in labels:
            for other, part in self.spread[label]:
                parts[other] = parts.get(other, 0.0) + part
        return parts

    def _add(self, labels: list[int], weight: float) -> None:
        touched: set[int] = set()
        for label, part in self._parts(labels).items():
            before = self.amount[label]
            self.amount[label] = before + weight * part
            self.total += self.phi.value(self.amount[label]) - self.phi.value(before)
            self.slope[label] = self.phi.slope(self.amount[label])
            touched.update(other for other, _ in self.spread[label])
        # From scratch, not by differences, which would drift and break ties. The graph is
        # symmetric, so those whose worth depends on a label are its neighbours.
        for label in touched:
            self.worth[label] = self._worth(label)
        self.curve.append(self.total)

    def _filled(self, index: Rows, gain: F64, n: int, k: int) -> tuple[Rows, F64]:
        """Once gains are 0, all rows left are tied: in pool order, whatever their group."""
        stop = int(np.argmax(gain <= 0)) if (gain <= 0).any() else len(index)
        if stop == len(index):
            return index, gain
        left = np.setdiff1d(np.arange(n, dtype=np.int64), index[:stop])[: k - stop]
        return np.concatenate([index[:stop], left]), np.concatenate(
            [gain[:stop], np.zeros(len(left))]
        )


def _window(bounds: F64, size: int) -> float:
    """A value that about `size` of the bounds exceed: the largest of the rest, -1 if none is left.

    Equal bounds stay on one side.
    """
    if len(bounds) <= 2 * size:
        return -1.0
    least = np.partition(bounds, len(bounds) - size)[len(bounds) - size]
    return float(bounds[bounds < least].max(initial=-1.0))
