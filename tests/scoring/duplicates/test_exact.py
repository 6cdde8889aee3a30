"""Copies of a text."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tamis.scoring.base import Rows
from tamis.scoring.duplicates.exact import DuplicatesExact, digest


def run(rows: Rows, **options: object) -> dict[str, list]:
    told: list[int] = []
    found = DuplicatesExact(**options).score_pool(rows, advance=told.append)
    assert sum(told) == rows.n
    return {name: values.tolist() for name, values in found.columns.items()}


def test_vectors(vectors: Callable[[str], Path], pool: Callable[..., Rows]) -> None:
    cases = sorted(vectors("signals").glob("dedup*.json"))
    assert cases
    for path in cases:
        case = json.loads(path.read_text(encoding="utf-8"))
        docs = case["docs"]
        assert [digest(d).hex() for d in docs] == case["exact_key"]
        found = run(pool(docs))
        kept = [i for i, first in enumerate(found["representative"]) if first == 1]
        blank = [i for i, d in enumerate(docs) if not d.strip()]
        assert kept == [i for i in case["exact_keep"] if i not in blank]
        assert [i for i, why in enumerate(found["reason"]) if why] == blank


def test_case_space_and_order_of_files(pool: Callable[..., Rows]) -> None:
    found = run(pool(["a  B", " ", "A\nb ", "ab", "a b", "ab!"], size=2))
    assert found["representative"] == [1, found["representative"][1], 0, 1, 0, 1]
    assert np.isnan(found["representative"][1])
    assert found["reason"] == [None, "no_text", None, None, None, None]
    assert found["size"][0] == found["size"][2] == found["size"][4] == 3


def test_views_and_keep(pool: Callable[..., Rows]) -> None:
    rows = [
        [{"role": "user", "content": q}, {"role": "assistant", "content": a}]
        for q, a in [("q", "one"), ("q", "two"), ("p", "two")]
    ]
    assert run(pool(rows))["size"] == [1, 1, 1]
    assert run(pool(rows), view="user")["representative"] == [1, 0, 1]
    assert run(pool(rows), view="answer")["representative"] == [1, 1, 0]
    kept = run(pool(rows, len__n=np.array([1.0, 2.0, 3.0])), view="answer", keep="len.n")
    assert kept["representative"] == [1, 0, 1]
