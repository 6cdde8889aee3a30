"""The end of the demo: the planted labels are opened, and what was found is counted.

This is the only code that reads the labels. A defect counts as found when the rule meant for it
dropped the row; one that fell to another rule, or was merely not picked, does not. A copy and its
original are the same text to any method, so a pair is found when the rule dropped either of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tamis.demo.rows import SKEWED
from tamis.storage.catalogue import OpenStore

Row = Mapping[str, Any]
# Which reason a row has to have been dropped for, by defect.
RULES = {
    "wrong_answer": "filter:nll.mean",
    "truncated": "filter:nll.mean",
    "noise": "filter:nll.mean",
    "exact_duplicate": "duplicate",
    "near_duplicate": "too_similar",
}
COPIES = ("exact_duplicate", "near_duplicate")
_ROWS = """
select s.id, s.kept, s.reason, p.planted, p.skill, p.twin, n.value nll
from selections s join samples p using (id)
left join (select id, value from signals_long where signal = 'nll.mean') n using (id)
where s.selection = $key
"""


@dataclass(frozen=True, slots=True)
class Found:
    """How one defect was found. `precision` is of the rule: of the rows it dropped, the share that
    carry any defect it is meant for. `auc`: how often `nll.mean` ranks a planted row above a clean
    one, None for copies. `kept` are planted rows in the subset; for copies, whole pairs in it."""

    defect: str
    rule: str
    planted: int
    found: int
    recall: float
    precision: float
    auc: float | None
    kept: int


@dataclass(frozen=True, slots=True)
class Skew:
    """The share of the skill that the pool has too much of, before and after."""

    skill: str
    before: float
    after: float


def read(store: OpenStore, selection: str) -> list[Row]:
    """Every row of the pool with its fate and its labels."""
    rows: list[Row] = store.sql(_ROWS, {"key": selection}).to_pylist()
    return rows


def found(rows: Sequence[Row]) -> list[Found]:
    """What became of each planted defect."""
    return [_found(rows, defect, rule) for defect, rule in RULES.items()]


def skew(rows: Sequence[Row]) -> Skew:
    """How much of the over-represented skill was left."""

    def share(some: Sequence[Row]) -> float:
        return sum(r["skill"] == SKEWED for r in some) / max(1, len(some))

    return Skew(SKEWED, share(rows), share([r for r in rows if r["kept"]]))


def _found(rows: Sequence[Row], defect: str, rule: str) -> Found:
    bad = [r for r in rows if r["planted"] == defect]
    if defect in COPIES:
        dropped = {r["twin"] for r in rows if r["twin"] and r["reason"] == rule}
        caught = [r for r in bad if r["twin"] in dropped]
    else:
        caught = [r for r in bad if r["reason"] == rule]
    return Found(
        defect,
        rule,
        len(bad),
        len(caught),
        len(caught) / max(1, len(bad)),
        _precision(rows, rule),
        None if defect in COPIES else _auc(rows, defect),
        len(_whole_pairs(rows, defect)) if defect in COPIES else sum(r["kept"] for r in bad),
    )


def _whole_pairs(rows: Sequence[Row], defect: str) -> set[str]:
    """The pairs of which both rows are in the subset."""
    copies = {r["twin"] for r in rows if r["planted"] == defect and r["kept"]}
    return copies & {r["twin"] for r in rows if r["planted"] == "none" and r["kept"]}


def _precision(rows: Sequence[Row], rule: str) -> float:
    """Of the rows the rule dropped, the share with a defect it is meant for. A row whose twin is a
    planted copy counts: either of the two is the one too many."""
    meant = {defect for defect, its in RULES.items() if its == rule}
    twins = {r["twin"] for r in rows if r["planted"] in meant and r["twin"]}
    dropped = [r for r in rows if r["reason"] == rule]
    right = sum(r["planted"] in meant or r["twin"] in twins for r in dropped)
    return right / max(1, len(dropped))


def _auc(rows: Sequence[Row], defect: str) -> float | None:
    """P(nll of a planted row > nll of a clean one), ties count half; None without rows."""
    bad, clean = _nll(rows, defect), np.sort(_nll(rows, "none"))
    if not len(bad) or not len(clean):
        return None
    places = np.searchsorted(clean, bad, "left") + np.searchsorted(clean, bad, "right")
    return float(places.mean() / 2 / len(clean))


def _nll(rows: Sequence[Row], planted: str) -> np.ndarray:
    values = [r["nll"] for r in rows if r["planted"] == planted and r["nll"] is not None]
    return np.array(values, np.float64)
