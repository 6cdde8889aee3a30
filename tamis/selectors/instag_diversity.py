"""Rows with many labels first, each only if it brings a label not yet seen (InsTag)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from tamis.numerics.ragged import Ragged
from tamis.selectors import checks
from tamis.selectors.base import About, Pool, Selection

Rows = NDArray[np.int64]
_BLOCK = 4096


@dataclass(frozen=True)
class InsTagDiversity:
    """Scan rows by falling number of distinct labels; keep one if the set of seen labels grows.

    When a scan ends below the budget, the seen labels are forgotten and the rest is scanned
    again, until the budget is met or no row has a label (`repeat` off: one scan). Ties go to the
    lowest row; the gain is the number of new labels.

    O(n) a scan plus one block a pick. Source: Lu et al., "#InsTag", 2023 (arXiv 2308.07074), the
    complexity-first diverse sampling.
    """

    labels: str = "tags.labels"
    repeat: bool = True

    name: ClassVar[str] = "instag_diversity"
    prefix: ClassVar[bool] = True
    version: ClassVar[int] = 1
    about: ClassVar[About] = About(
        sentence="Takes rows with many labels first, each only if it brings a new label.",
        needs="a column with the labels of each row",
        cost="seconds",
        avoid="when labels are few: after one scan it only counts labels",
    )

    def needs(self) -> frozenset[str]:
        """The labels."""
        return frozenset({self.labels})

    def select(self, pool: Pool, k: int, *, rng: np.random.Generator) -> Selection:
        """Kept rows in scan order, scan after scan."""
        k = checks.budget(k, pool.n)
        labels, names = checks.labels(pool, self.labels)
        labels = labels.distinct(len(names))
        sizes = np.diff(labels.indptr)
        left = np.argsort(-sizes, kind="stable").astype(np.int64)
        left = left[sizes[left] > 0]
        index: list[int] = []
        gain: list[int] = []
        scans = 0
        while len(left) and len(index) < k:
            picks, new = _scan(labels, left, len(names), k - len(index))
            index += picks
            gain += new
            scans += 1
            left = left[~np.isin(left, picks)]
            if not self.repeat:
                break
        picked = np.asarray(index, dtype=np.int64)
        reason = checks.reasons(
            pool.n, "over_budget" if len(index) == k else "no_new_label", picked
        )
        reason[sizes == 0] = "no_label"
        facts = {"labels": len(names), "scans": scans}
        return Selection(
            picked, np.asarray(gain, dtype=np.float64), facts=facts, rows={"reason": reason}
        )


def _scan(labels: Ragged, order: Rows, count: int, room: int) -> tuple[list[int], list[int]]:
    """One pass: rows that bring a label not seen in this pass, and how many they bring."""
    seen = np.zeros(count, dtype=bool)
    picks: list[int] = []
    new: list[int] = []
    for start in range(0, len(order), _BLOCK):
        rows = order[start : start + _BLOCK]
        block = labels[rows]
        at = 0
        while len(picks) < room:
            fresh = np.add.reduceat(
                ~seen[block.values[block.indptr[at] :]],
                block.indptr[at:-1] - block.indptr[at],
                dtype=np.int64,
            )
            found = int((fresh > 0).argmax())
            if fresh[found] == 0:
                break
            at += found
            picks.append(int(rows[at]))
            new.append(int(fresh[found]))
            seen[block.values[block.indptr[at] : block.indptr[at + 1]]] = True
            at += 1
            if at == len(rows):
                break
    return picks, new
