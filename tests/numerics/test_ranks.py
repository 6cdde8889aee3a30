"""Ranks, medians and cells against loops."""

from __future__ import annotations

import statistics

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tamis.numerics.ranks import deciles, levels, medians, midranks

rows = st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 3)), max_size=30)


@given(rows)
def test_ranks_and_medians_by_hand(pairs):
    values = np.array([v for v, _ in pairs], dtype=float)
    cells = np.array([c for _, c in pairs], dtype=np.int64)
    rank, count = midranks(values, cells)
    middle = medians(values, cells)
    for i, (value, cell) in enumerate(pairs):
        own = [v for v, c in pairs if c == cell]
        assert count[i] == len(own)
        below, equal = sum(v < value for v in own), sum(v == value for v in own)
        assert rank[i] == below + (equal + 1) / 2
        assert middle[i] == statistics.median(own)


@given(rows, st.integers(0, 6))
def test_small_cells_are_judged_in_the_coarser_one(pairs, least):
    codes = [np.array(c, dtype=np.int64) for c in zip(*pairs, strict=True)] or [
        np.zeros(0, dtype=np.int64)
    ] * 2
    codes = [codes[0] + 3, codes[1]] if pairs else codes
    n = len(pairs)
    seen = np.zeros(n, dtype=int)
    for depth, (cells, mine) in zip((2, 1, 0), levels(codes, n, least), strict=True):
        seen += mine
        for i in np.flatnonzero(mine):
            for d in (2, 1, 0):
                same = [j for j in range(n) if pairs[j][:d] == pairs[i][:d]]
                if len(same) >= least or d == 0:
                    break
            assert d == depth
            assert np.flatnonzero(cells == cells[i]).tolist() == same
    assert (seen == 1).all()


def test_deciles_keep_few_values_apart_and_equal_ones_together():
    assert deciles(np.array([0.0, 1, 0, 0, np.nan])).tolist() == [0, 1, 0, 0, 10]
    code = deciles(np.arange(1000.0))
    assert np.bincount(code).tolist() == [100] * 10
    # A value on a cut belongs below it.
    assert np.bincount(deciles(np.arange(101.0))).tolist() == [11] + [10] * 9
    many = np.concatenate([np.zeros(900), np.arange(1, 101.0)])
    assert len(set(deciles(many)[:900].tolist())) == 1
    assert deciles(np.full(3, np.nan)).tolist() == [10, 10, 10]
