"""Rows to examples, and examples to steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.errors import DataError
from tamis.language.render import cut, render
from tamis.trainer.data import prepare, steps
from tamis.trainer.pack import packed


def test_examples_are_the_rendered_rows(
    tokenizer: Any, table: Callable[..., pa.Table], sums: Any
) -> None:
    limit = 30
    found = prepare(table(sums), tokenizer, prompt_style="chat", max_length=limit)
    at, truncated = 0, 0
    for i, messages in enumerate(sums):
        whole, was_cut = cut(render(messages, None, tokenizer, prompt_style="chat"), limit)
        if not any(whole.labelled):
            continue
        ids, labels = found.row(at)
        assert found.row_id[at] == f"r{i:03d}"
        assert ids.tolist() == whole.ids
        want = [t if on else -100 for t, on in zip(whole.ids, whole.labelled, strict=True)]
        assert labels.tolist() == want
        truncated += was_cut
        at += 1
    assert at == len(found) < len(sums)
    assert found.truncated == truncated > 0
    assert found.dropped == {"no_trained_token": len(sums) - at}


def test_rows_that_cannot_be_trained_are_counted_by_reason(
    tokenizer: Any, table: Callable[..., pa.Table], sums: Any
) -> None:
    calls = [{"function": {"name": "f", "arguments": {}}}]
    rows = [
        sums[0],
        [*sums[1], {"role": "assistant", "content": None, "tool_calls": calls}],
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": " "}],
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "train": False}],
        sums[2],
    ]
    found = prepare(table(rows), tokenizer, prompt_style="chat", max_length=256)
    assert found.row_id == ["r000", "r004"]
    assert found.dropped == {"drops_tool_calls": 1, "empty_answer": 1, "no_trained_token": 1}


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf])
def test_weights_that_make_no_sense_are_refused(
    tokenizer: Any, table: Callable[..., pa.Table], sums: Any, bad: float
) -> None:
    rows = table(sums[:3], [1.0, bad, 1.0])
    with pytest.raises(DataError, match=r"weight.*r001"):
        prepare(rows, tokenizer, prompt_style="chat", max_length=256)


def test_nothing_to_train_on_is_an_error(
    tokenizer: Any, table: Callable[..., pa.Table], sums: Any
) -> None:
    with pytest.raises(DataError, match=r"none of the 3 rows.*no_trained_token"):
        prepare(table(sums[:3]), tokenizer, prompt_style="chat", max_length=4)
    with pytest.raises(DataError, match="none of the 2 rows"):
        prepare(table(sums[:2], [0.0, 0.0]), tokenizer, prompt_style="chat", max_length=256)


def test_nothing_predicts_the_first_token(tokenizer: Any, table: Callable[..., pa.Table]) -> None:
    rows = table([[{"role": "assistant", "content": "five and six"}]] * 2)
    found = prepare(rows, tokenizer, prompt_style="plain", max_length=256)
    assert found.labelled[found.indptr[:-1]].all()
    for i in range(2):
        ids, labels = found.row(i)
        assert labels.tolist() == [-100, *ids[1:].tolist()]
    together = packed(found, [0, 1])
    assert int((together["labels"] != -100).sum()) == 2 * (len(ids) - 1)


def test_fingerprint_follows_tokens_labels_weights_and_ids(
    tokenizer: Any, table: Callable[..., pa.Table], sums: Any
) -> None:
    def mark(rows: pa.Table, limit: int = 256) -> str:
        return prepare(rows, tokenizer, prompt_style="chat", max_length=limit).fingerprint()

    untrained = [[{**m, "train": False} for m in r[:2]] + r[2:] for r in sums[:6]]
    tables = [table(sums[:6]), table(sums[:5]), table(sums[:6], [1.0] * 5 + [2.0])]
    marks = {mark(t) for t in tables} | {mark(table(untrained)), mark(table(sums[:6]), 30)}
    renamed = table(sums[:6]).set_column(0, "row_id", pa.array([f"x{i}" for i in range(6)]))
    assert len(marks | {mark(renamed)}) == 6
    assert mark(table(sums[:6], [1.0] * 6)) == mark(table(sums[:6]))


@given(
    n=st.integers(1, 50),
    epochs=st.floats(0.1, 3.5),
    size=st.integers(1, 20),
    seed=st.integers(0, 2**40),
)
def test_steps_visit_every_row_once_an_epoch(n: int, epochs: float, size: int, seed: int) -> None:
    found = steps(n, epochs=epochs, rows_per_step=size, max_steps=None, seed=seed)
    visits = np.concatenate(found)
    assert len(visits) == max(1, round(n * epochs))
    assert [len(g) for g in found[:-1]] == [size] * (len(found) - 1)
    assert 1 <= len(found[-1]) <= size
    for start in range(0, len(visits), n):
        epoch = visits[start : start + n]
        assert len(set(epoch.tolist())) == len(epoch)
    again = steps(n, epochs=epochs, rows_per_step=size, max_steps=3, seed=seed)
    assert [g.tolist() for g in again] == [g.tolist() for g in found[:3]]


def test_order_follows_the_seed_and_the_epoch() -> None:
    one = steps(40, epochs=2, rows_per_step=40, max_steps=None, seed=1)
    other = steps(40, epochs=1, rows_per_step=40, max_steps=None, seed=2)
    assert one[0].tolist() != one[1].tolist()
    assert one[0].tolist() != other[0].tolist()


def test_a_row_that_its_template_rewrites_becomes_examples_of_its_own(
    rewriting: Any, table: Callable[..., pa.Table], sums: Any
) -> None:
    rows = table(sums[:7], [1.0, 2, 3, 4, 5, 6, 7])  # rows 0 and 5 have two answers
    found = prepare(rows, rewriting, prompt_style="chat", max_length=256)
    assert found.row_id == [f"r{i:03d}" for i in (0, 0, 1, 2, 3, 4, 5, 5, 6)]
    assert found.weight.tolist() == [1, 1, 2, 3, 4, 5, 6, 6, 7]
    assert found.split == 2 and not found.dropped
    first, second = (found.row(i) for i in (6, 7))
    for (ids, labels), message in ((first, 1), (second, 3)):
        answer = sums[5][message]["content"]
        assert rewriting.decode(labels[labels != -100]) == f"so {answer}<|end|>"
        assert labels[-1] == ids[-1]
