"""Order of preference, components, greedy groups and the columns."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.scoring.base import Rows
from tamis.scoring.duplicates import groups

edge_lists = st.integers(1, 9).flatmap(
    lambda n: st.tuples(
        st.just(n),
        st.lists(
            st.tuples(
                st.integers(0, n - 1), st.integers(0, n - 1), st.sampled_from([0.7, 0.8, 1])
            ).filter(lambda e: e[0] != e[1])
        ),
    )
)


def arrays(edges: list[tuple[int, int, float]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    first = np.array([e[0] for e in edges], dtype=np.int64)
    second = np.array([e[1] for e in edges], dtype=np.int64)
    return first, second, np.array([e[2] for e in edges], dtype=np.float64)


@given(edge_lists)
def test_components_are_the_reachable_places(given: tuple[int, list]) -> None:
    n, edges = given
    first, second, _ = arrays(edges)
    reach = np.eye(n, dtype=bool)
    reach[first, second] = reach[second, first] = True
    for middle in range(n):
        reach |= reach[:, [middle]] & reach[[middle], :]
    expected = reach.argmax(axis=1)
    assert groups.components(n, first, second).tolist() == expected.tolist()


@given(edge_lists)
def test_greedy_is_a_scan_in_order(given: tuple[int, list]) -> None:
    n, edges = given
    first, second, similarity = arrays(edges)
    near = np.zeros((n, n))
    for a, b, value in edges:
        near[a, b] = near[b, a] = max(near[a, b], value)
    kept: list[int] = []
    expected = []
    for i in range(n):
        best = max(kept, key=lambda j: (near[i, j], -j), default=i)
        if not kept or near[i, best] == 0:
            kept.append(i)
            best = i
        expected.append(best)
    assert groups.greedy(n, first, second, similarity).tolist() == expected


@given(st.lists(st.integers(0, 5)))
def test_copies(keys: list[int]) -> None:
    first, number = groups.copies(np.array(keys, dtype=np.int64))
    assert first.tolist() == sorted({keys.index(k) for k in keys})
    assert [keys[i] for i in first[number]] == keys


def test_preferred_rows_come_first() -> None:
    rows = Rows(5, {"q": np.array([1.0, np.nan, 3.0, 3.0, 9.0])}, lambda: iter(()))
    some = np.array([True, True, True, True, False])
    assert groups.preferred(rows, None, some).tolist() == [0, 1, 2, 3]
    assert groups.preferred(rows, "q", some).tolist() == [2, 3, 0, 1]


def test_columns() -> None:
    found = groups.columns(
        6, np.array([4, 1, 2, 5]), np.array([4, 4, 2, 4]), np.array([1, 0.8, 1, 0.9]), "why"
    )
    nan = np.nan
    expected = {
        "group": [nan, 0, nan, nan, 0, 0],
        "representative": [nan, 0, 1, nan, 1, 0],
        "similarity": [nan, 0.8, 1, nan, 1, 0.9],
        "size": [nan, 3, 1, nan, 3, 3],
    }
    for name, values in expected.items():
        np.testing.assert_array_equal(found.columns[name], values)
    assert found.columns["reason"].tolist() == ["why", None, None, "why", None, None]
    assert found.facts == {"groups": 1, "duplicates": 2}


@pytest.mark.parametrize("n", [0, 1])
def test_nothing_to_group(n: int) -> None:
    none = np.empty(0, dtype=np.int64)
    assert groups.components(n, none, none).tolist() == list(range(n))
    assert groups.greedy(n, none, none, none.astype(float)).tolist() == list(range(n))
