"""Information of labels that rows give and a graph spreads, maximised greedily."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tamis.numerics import exact_information
from tamis.numerics.gradient_information import Gradient
from tamis.numerics.label_graph import LabelGraph
from tamis.numerics.label_groups import Labels, Queues

F64 = NDArray[np.float64]
Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Phi:
    """A concave function of the information of one label: `pow` or `exp`."""

    kind: Literal["pow", "exp"]
    exponent: float
    offset: float
    rate: float

    def values(self, x: F64) -> F64:
        """phi(x)."""
        value: F64
        if self.kind == "exp":
            value = 1 - np.exp(-self.rate * x)
        else:
            value = (x + self.offset) ** self.exponent
        return value

    def slopes(self, x: F64) -> F64:
        """phi'(x)."""
        slope: F64
        if self.kind == "exp":
            slope = self.rate * np.exp(-self.rate * x)
        else:
            slope = self.exponent * (x + self.offset) ** (self.exponent - 1)
        return slope


@dataclass(frozen=True, slots=True)
class Spread:
    """What one unit on a label becomes: P[p, q] = M[p, q] / sum_r M[r, q], rows as CSR arrays.

    M is the graph with off-diagonal entries times alpha. Its pattern is symmetric.
    """

    indptr: Rows
    columns: Rows
    shares: F64

    @classmethod
    def over(cls, graph: LabelGraph, alpha: float) -> Spread:
        """Spread over a graph with strength `alpha`."""
        size = len(graph.indptr) - 1
        rows = np.repeat(np.arange(size), np.diff(graph.indptr))
        values = np.where(rows == graph.indices, graph.values, alpha * graph.values)
        degree = np.bincount(graph.indices, values, minlength=size)
        return cls(graph.indptr, graph.indices, values / degree[graph.indices])


class Information:
    """Greedy maximisation of E = sum over labels of phi(x), x what the rows taken spread.

    Row i with weight w spreads w * (sum over its labels p of P[p, q]) to label q. Its gradient
    gain is w * sum over its labels of G, G = P phi'(x); its exact gain what it adds to E. Neither
    rises as rows are taken, as phi is concave and nothing is negative, so what was computed
    before is a bound (Minoux 1978).
    """

    def __init__(self, graph: LabelGraph, phi: Phi, alpha: float) -> None:
        self.spread, self.phi = Spread.over(graph, alpha), phi
        self.curve = np.empty(0)

    def order(self, labels: Labels, weight: F64, k: int, *, exact: bool) -> tuple[Rows, F64]:
        """The first `k` rows of the greedy order and their gains; `curve` is E after each, less E
        of none. Ties, gains equal to about 1e-12, go to the lowest row."""
        queues = Queues(labels, weight)
        k = min(k, len(weight))
        if exact:
            index, gain, self.curve = exact_information.order(self.spread, self.phi, queues, k)
        else:
            index, gain, self.curve = Gradient(self.spread, self.phi).order(queues, k)
        # Once gains are 0, all rows left are tied: in pool order, whatever their labels.
        some = np.ones(len(weight), dtype=bool)
        some[index] = False
        left = np.flatnonzero(some)[: k - len(index)]
        last = self.curve[-1] if len(self.curve) else 0.0
        self.curve = np.concatenate([self.curve, np.full(len(left), last)])
        return np.concatenate([index, left]), np.concatenate([gain, np.zeros(len(left))])
