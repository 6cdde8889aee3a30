"""Batches: every row once, longest first, within the budget."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tamis.language.batch import batches


@given(st.lists(st.integers(0, 50), max_size=60), st.integers(1, 200))
def test_every_row_once_within_the_budget(lengths: list[int], budget: int) -> None:
    cut = list(batches(np.array(lengths, dtype=np.int64), budget))
    rows = [int(i) for batch in cut for i in batch]
    assert sorted(rows) == list(range(len(lengths)))
    assert all(len(b) == 1 or len(b) * max(lengths[i] for i in b) <= budget for b in cut)
    seen = [lengths[i] for i in rows]
    assert seen == sorted(seen, reverse=True)


def test_equal_lengths_keep_their_order_and_fill_the_budget() -> None:
    cut = [b.tolist() for b in batches(np.array([5, 5, 5, 5, 5]), 10)]
    assert cut == [[0, 1], [2, 3], [4]]
