"""Columns of a pool: every shape that the store gives, brought to one form."""

import numpy as np
import pytest

from tamis.errors import DataError
from tamis.selectors import Pool, Ragged, checks


def objects(rows):
    column = np.empty(len(rows), dtype=object)
    for i, row in enumerate(rows):
        column[i] = row
    return column


def one(column):
    return Pool(len(column), {"c": column})


def test_ragged_rows_in_any_order():
    column = Ragged(np.array([0, 2, 2, 5]), np.array([1, 2, 3, 4, 5]))
    taken = column[np.array([2, 0, 1, 2])]
    assert taken.indptr.tolist() == [0, 3, 5, 5, 8]
    assert taken.values.tolist() == [3, 4, 5, 1, 2, 3, 4, 5]
    assert len(column) == 3 and len(column[np.array([], dtype=int)]) == 0
    twice = Ragged(np.array([0, 4, 4, 6]), np.array([2, 0, 2, 1, 1, 1]))
    distinct = twice.distinct(3)
    assert distinct.indptr.tolist() == [0, 3, 3, 4] and distinct.values.tolist() == [0, 1, 2, 1]


def test_pool_of_some_rows_keeps_target_and_labels():
    other = Pool(0, {})
    pool = Pool(3, {"a": np.arange(3), "r": Ragged(np.arange(4), np.arange(3))}, other, other)
    part = pool.take(np.array([2, 0]))
    assert part.n == 2 and part.columns["a"].tolist() == [2, 0]
    assert part.columns["r"].values.tolist() == [2, 0]
    assert part.target is other and part.labels is other


@pytest.mark.parametrize(
    "column",
    [
        Ragged(np.array([0, 2, 4]), np.array([1, 2, 3, 4])),
        np.array([[1, 2], [3, 4]]),
        objects([[1, 2], (3.0, 4)]),
        objects([np.array([1, 2]), [3, 4]]),
        np.asarray([[1, 2], [3, 4]], dtype=object),
    ],
)
def test_turns_of_every_shape(column):
    found = checks.ragged(one(column), "c")
    assert found.indptr.tolist() == [0, 2, 4] and found.values.tolist() == [1, 2, 3, 4]
    assert found.values.dtype == np.float64


def test_one_number_is_one_turn_and_none_is_missing():
    assert checks.ragged(one(np.array([5, 6])), "c").indptr.tolist() == [0, 1, 2]
    found = checks.ragged(one(objects([None, [1, None]])), "c", missing=True)
    assert found.indptr.tolist() == [0, 1, 3] and np.isnan(found.values[[0, 2]]).all()
    with pytest.raises(DataError, match="NaN"):
        checks.ragged(one(objects([None, [1]])), "c")


def test_broken_ragged_columns():
    for indptr, values in (([1, 2], [1, 2]), ([0, 2, 1], [1, 2]), ([0, 1, 3], [1, 2])):
        with pytest.raises(DataError, match="indptr"):
            checks.ragged(one(Ragged(np.array(indptr), np.array(values))), "c")


def test_labels_of_every_shape():
    for column in (
        objects([["b", "a"], [], ["a", "a"]]),
        objects([("b", "a"), None, np.array(["a", "a"])]),
        Ragged(np.array([0, 2, 2, 4]), np.array(["b", "a", "a", "a"])),
    ):
        found, names = checks.labels(one(column), "c")
        assert names == ["a", "b"]
        assert found.indptr.tolist() == [0, 2, 2, 4] and found.values.tolist() == [1, 0, 0, 0]
    single, names = checks.labels(one(np.array(["x", None, "y"], dtype=object)), "c")
    assert names == ["x", "y"] and single.indptr.tolist() == [0, 1, 1, 2]
    numbers, names = checks.labels(one(Ragged(np.array([0, 1, 3]), np.array([10, 9, 10]))), "c")
    assert names == ["9", "10"] and numbers.values.tolist() == [1, 0, 1]


def test_texts_and_numbers():
    assert checks.texts(one(np.array([1, 2])), "c") == ["1", "2"]
    with pytest.raises(DataError, match="no value in 1 of 2 rows, first row 1"):
        checks.texts(one(np.array(["a", None], dtype=object)), "c")
    assert checks.numbers(one(np.array([1, None], dtype=object)), "c", missing=True)[0] == 1
    with pytest.raises(DataError, match="did you mean score"):
        checks.column(Pool(1, {"score": np.ones(1)}), "scor")
    with pytest.raises(DataError, match="it has: none"):
        checks.column(Pool(1, {}), "x")
    huge = one(np.array([[1e300, 0.0]]))
    with pytest.raises(DataError, match="infinity"):
        checks.matrix(huge, "c")


def test_lists_of_one_length_are_vectors_and_others_are_refused() -> None:
    even = Ragged(np.array([0, 2, 4]), np.array([1.0, 2.0, 3.0, 4.0]))
    found = checks.matrix(Pool(2, {"v": even}), "v")
    assert found.dtype == np.float32 and found.tolist() == [[1, 2], [3, 4]]
    with pytest.raises(DataError, match="vectors of one length"):
        checks.matrix(Pool(2, {"v": Ragged(np.array([0, 1, 4]), even.values)}), "v")
