"""A scorer trained on rankings: the split, the labels, and that it learns what can be learnt."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tamis.errors import DataError
from tamis.numerics.ranks import spearman
from tamis.pipelines import rankings
from tamis.pipelines.context import Context
from tamis.pipelines.pool import Snapshot
from tamis.pipelines.train_scorer import train_scorer
from tamis.recipe import Model
from tamis.scoring import registry

TEMPLATE = "{instruction}>{response}: "


def write(path: Path, rows: list[dict[str, Any]]) -> list[str]:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return [str(path)]


def test_scores_and_ranks_become_digits(tmp_path: Path) -> None:
    rows = [
        {"instruction": "a", "output": "x", "score": 2.5},
        {"instruction": "a", "response": "y", "score": "6"},
        {"instruction": "b", "seed": "s", "rank": 1},
        {"instruction": "c", "seed": "s", "rank": 2},
        {"instruction": "d", "seed": "s", "rank": 3},
        {"instruction": "e", "rank": 1},
    ]
    found = rankings.read(write(tmp_path / "r.jsonl", rows))
    assert [r.score for r in found] == [2.5, 6, 6, 3.5, 1, 3.5]
    assert [r.digit for r in found] == [3, 6, 6, 4, 1, 4]
    assert [r.group for r in found] == ["a", "a", "s", "s", "s", "e"]
    assert [r.response for r in found] == ["x", "y", "", "", "", ""]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"instruction": "a", "score": 7}, "row 2: score is 7, expected 1 to 6"),
        ({"instruction": "a"}, "needs score .* or rank"),
        ({"instruction": "a", "score": 3, "rank": 1}, "exactly one"),
        ({"instruction": " ", "score": 3}, "instruction is missing"),
        ({"instruction": "a", "score": "good"}, "score is 'good', expected a number"),
        ({"instruction": "a", "rank": 0}, "rank is 0"),
        (["a", 3], "expected an object"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, row: Any, message: str) -> None:
    good = {"instruction": "a", "score": 3}
    with pytest.raises(DataError, match=message):
        rankings.read(write(tmp_path / "r.jsonl", [good, row]))


def test_variants_of_a_seed_never_stand_on_both_sides() -> None:
    rows = [rankings.Ranked(f"i{k}", "", 1 + k % 6, f"g{k // 6}") for k in range(120)]
    train, held = rankings.split(rows, 20, 0)
    assert len(held) == 24 and len(train) == 96
    assert not {r.group for r in train} & {r.group for r in held}
    again = rankings.split(rows[::-1], 20, 0)[1]
    assert {r.group for r in again} == {r.group for r in held}
    assert {r.group for r in rankings.split(rows, 20, 1)[1]} != {r.group for r in held}
    with pytest.raises(DataError, match="1 group"):
        rankings.split(rows[:6], 20, 0)


def test_spearman_takes_ties_at_their_mean() -> None:
    assert spearman(np.array([1.0, 2, 3]), np.array([10.0, 20, 15])) == pytest.approx(0.5)
    assert spearman(np.array([1.0, 1, 2]), np.array([0.0, 0, 9])) == pytest.approx(1)
    assert spearman(np.ones(3), np.arange(3.0)) is None


@pytest.fixture
def data(tmp_path: Path) -> list[str]:
    """The letter of the response says the score, and its length says nothing."""
    rng = np.random.default_rng(0)
    rows = []
    for seed in range(40):
        for k in rng.permutation(6):
            response = "abcdef"[k] * int(rng.integers(1, 6))
            rows.append({"instruction": f"q{seed}", "output": response, "score": int(k) + 1})
    return write(tmp_path / "rankings.jsonl", rows)


def test_a_scorer_learns_reuses_and_scores(
    data: list[str],
    make_context: Callable[..., Context],
    tiny_lm: Callable[..., Path],
    put_rows: Callable[..., Snapshot],
) -> None:
    base = {"path": str(tiny_lm()), "prompt_style": "plain"}
    tune = {"model": "lm", "epochs": 6, "rows_per_step": 16, "learning_rate": 0.02}
    ctx = make_context(models={"lm": base}, tune=tune)
    artifact, reused = train_scorer(ctx, data, "quality", TEMPLATE, 20)
    facts = artifact.facts
    assert not reused and facts["heldout_groups"] == 8 and facts["heldout_rows"] == 48
    assert facts["rows"] == 192 and facts["spearman"] > 0.9 > 0.5 > facts["spearman_of_length"]
    again, reused = train_scorer(ctx, data, "quality", TEMPLATE, 20)
    assert reused and again.key == artifact.key
    model = Model(**base, adapter=str(artifact.path / "model"))
    options = {"axes": ["quality"], "quality": TEMPLATE}
    scorer = registry.build("evol", model=model, options=options, device="cpu")
    pool = put_rows("new", [{"question": "new", "answer": a} for a in ("aaa", "fff")])
    (table,) = pool.batches()
    low, high = scorer.score(table.to_batches()[0], advance=lambda n: None)["total"]
    assert low < 2 and high > 5
