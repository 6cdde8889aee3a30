"""stratified: shares of strata in every prefix, and equal chances of all rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.errors import DataError
from tamis.selectors import Pool, build


def run(columns, k, seed=0, **options):
    n = len(next(iter(columns.values())))
    return build("stratified", options).select(Pool(n, columns), k, rng=np.random.default_rng(seed))


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=6),
    st.floats(0, 1),
    st.integers(0, 2**32 - 1),
)
def test_every_prefix_has_each_stratum_in_its_share(sizes, share, seed):
    source = np.repeat([f"s{i}" for i in range(len(sizes))], sizes).astype(object)
    n, k = len(source), round(share * sum(sizes))
    found = run({"source": source}, k, seed)
    assert len(set(found.index.tolist())) == k
    for i, size in enumerate(sizes):
        taken = int((source[found.index] == f"s{i}").sum())
        # At one threshold all strata are within a row of their share; k rows move it by less than
        # a row a stratum.
        assert abs(taken - size * k / n) <= 1 + size * len(sizes) / n + 1e-9


def test_columns_cross_and_lengths_are_cut_into_equally_filled_ranges():
    rng = np.random.default_rng(0)
    columns = {
        "source": np.repeat(["a", "b"], 200).astype(object),
        "lang": np.tile(np.array(["en", None], dtype=object), 200),
        "words": rng.permutation(400).astype(float),
    }
    found = run(columns, 100, by=["source", "lang"], length="words", bins=4)
    cluster = found.rows["cluster"]
    assert found.facts["strata"] == len(np.unique(cluster)) == 2 * 2 * 4
    for name in np.unique(cluster):
        rows = np.flatnonzero(cluster == name)
        assert len({(columns["source"][r], columns["lang"][r]) for r in rows}) == 1
        assert np.ptp(columns["words"][rows]) < 100 + 1
        assert abs((cluster[found.index] == name).sum() - len(rows) / 4) <= 1.5


def test_a_row_without_a_value_is_of_a_kind_of_its_own():
    source = np.array(["a", None, None, "b"], dtype=object)
    found = run({"source": source}, 4)
    assert found.facts["strata"] == 3
    cluster = found.rows["cluster"].tolist()
    assert cluster[1] == cluster[2] and len(set(cluster)) == 3


def test_rows_of_small_and_large_strata_are_equally_likely():
    source = np.array(["rare"] + ["common"] * 9, dtype=object)
    drawn = np.zeros(10)
    for seed in range(3000):
        drawn[run({"source": source}, 3, seed).index] += 1
    # The standard deviation of a share is below 0.0085.
    assert np.abs(drawn / 3000 - 0.3).max() < 0.04


def test_bins_below_one_are_refused():
    with pytest.raises(DataError, match="bins must be 1 or more, got 0"):
        build("stratified", {"bins": 0})
