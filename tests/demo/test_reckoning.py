"""What the demo says it found, against counts by hand."""

from __future__ import annotations

from typing import Any

import pytest

from tamis.demo import reckoning

NLL = "filter:nll.mean"


def row(planted: str, reason: str, *, nll: float = 0.1, twin: str = "", skill: str = "x") -> Any:
    return {
        "id": "",
        "kept": reason == "selected",
        "reason": reason,
        "planted": planted,
        "skill": skill,
        "twin": twin,
        "nll": nll,
    }


ROWS = [
    row("none", "selected", nll=0.1, skill="comparison"),
    row("none", "selected", nll=0.2),
    row("none", NLL, nll=0.9),
    row("none", "too_similar", nll=0.3, skill="comparison"),
    row("wrong_answer", NLL, nll=2.0),
    row("wrong_answer", "selected", nll=0.2),
    row("wrong_answer", "over_budget", nll=0.15),
    row("noise", NLL, nll=9.0),
    row("truncated", "duplicate", nll=3.0),
    # two near pairs: in one the original was dropped, in the other neither
    row("none", "too_similar", twin="a"),
    row("near_duplicate", "selected", twin="a"),
    row("none", "selected", twin="b"),
    row("near_duplicate", NLL, twin="b"),
    # a near pair that is whole in the subset
    row("none", "selected", twin="d"),
    row("near_duplicate", "selected", twin="d"),
    # an exact pair: the copy was kept, the original dropped
    row("none", "duplicate", twin="c"),
    row("exact_duplicate", "selected", twin="c"),
]


def test_recall_precision_and_what_is_left() -> None:
    found = {f.defect: f for f in reckoning.found(ROWS)}
    wrong = found["wrong_answer"]
    assert (wrong.planted, wrong.found, wrong.kept) == (3, 1, 1)
    assert wrong.recall == pytest.approx(1 / 3)
    # the filter dropped four: one wrong answer, one noise, one clean, one near-duplicate
    assert {found[d].precision for d in ("wrong_answer", "truncated", "noise")} == {2 / 4}
    assert found["noise"].recall == 1
    assert found["truncated"].recall == 0
    assert (found["near_duplicate"].found, found["near_duplicate"].precision) == (1, 1 / 2)
    assert (found["near_duplicate"].planted, found["near_duplicate"].kept) == (3, 1)
    assert found["exact_duplicate"].kept == 0  # its original is not in the subset
    assert (found["exact_duplicate"].found, found["exact_duplicate"].precision) == (1, 1 / 2)


def test_auc_is_the_share_of_pairs_in_order() -> None:
    clean = [r["nll"] for r in ROWS if r["planted"] == "none"]
    for defect in ("wrong_answer", "noise"):
        bad = [r["nll"] for r in ROWS if r["planted"] == defect]
        pairs = [(b > c) + (b == c) / 2 for b in bad for c in clean]
        found = next(f for f in reckoning.found(ROWS) if f.defect == defect)
        assert found.auc == pytest.approx(sum(pairs) / len(pairs))


def test_skew_before_and_after() -> None:
    skew = reckoning.skew(ROWS)
    kept = [r for r in ROWS if r["kept"]]
    assert skew.before == pytest.approx(2 / len(ROWS))
    assert skew.after == pytest.approx(1 / len(kept))


def test_nothing_planted_is_no_division_by_zero() -> None:
    found = reckoning.found([row("none", "selected")])
    assert all((f.planted, f.recall, f.precision, f.auc) == (0, 0, 0, None) for f in found)
