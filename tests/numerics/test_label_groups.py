"""Queues of rows with the same labels: against a dictionary of sets."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.numerics import label_groups
from tamis.numerics.label_groups import Queues
from tamis.numerics.ragged import Ragged


def ragged(rows):
    sizes = [len(row) for row in rows]
    indptr = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    return Ragged(indptr, np.array([v for row in rows for v in row], dtype=np.int64))


def check(rows, weight):
    queues = Queues(ragged(rows), weight)
    want = {}
    for row in np.argsort(-weight, kind="stable").tolist():
        if rows[row]:
            want.setdefault(tuple(rows[row]), []).append(row)
    got = {}
    for group, (start, end) in enumerate(zip(queues.at, queues.end, strict=True)):
        owned = queues.labels_of(np.array([group])).values
        got[tuple(owned.tolist())] = queues.rows[start:end].tolist()
    assert got == want
    return queues


label_sets = st.lists(st.sets(st.integers(0, 5), max_size=4).map(sorted), max_size=40)


@settings(max_examples=150)
@given(label_sets, st.integers(0, 10**6))
def test_equal_sets_share_a_queue(rows, seed):
    rng = np.random.default_rng(seed)
    check(rows, rng.integers(4, size=len(rows)) / 2)


def test_sets_with_the_same_key_are_told_apart(monkeypatch):
    class Zero:
        def integers(self, high, size, dtype):
            return np.zeros(size, dtype=dtype)

    rng = np.random.default_rng(0)
    rows = [sorted(set(rng.integers(5, size=3).tolist())) for _ in range(60)]
    weight = rng.uniform(size=60)
    with monkeypatch.context() as patch:
        patch.setattr(label_groups.np.random, "default_rng", lambda seed: Zero())
        check(rows, weight)
        # Sets of one size too, where only the labels differ.
        check([row[:1] for row in rows], weight)


def test_heads_and_sums():
    queues = check([[0, 1], [2], [0, 1], []], np.array([1.0, 2.0, 3.0, 4.0]))
    groups, heads = queues.heads(np.arange(2))
    assert sorted(heads.tolist()) == [1, 2]
    both = next(int(g) for g, head in zip(groups, heads, strict=True) if head == 2)
    worth = np.array([1.0, 10.0, 100.0])
    assert queues.sums(worth, np.array([both])).tolist() == [11.0]
    assert sorted(queues.sums(worth, np.arange(2)).tolist()) == [11.0, 100.0]
    assert queues.after(both) == 0 and queues.after(both) is None
    assert queues.heads(np.arange(2))[1].tolist() == [1]
    assert queues.sums(worth, np.arange(0)).tolist() == []
    assert len(queues.heads(np.array([both]))[0]) == 0
