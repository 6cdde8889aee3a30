"""Blocks on all cores: the results in order, one thread of the linear algebra in each."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from threadpoolctl import ThreadpoolController, threadpool_limits

from tamis.numerics.threads import spread


def blas_threads() -> int:
    """Of numpy's own library: others (scipy's) may be loaded too, and do not run in the blocks."""
    every = [lib for lib in ThreadpoolController().info() if lib["user_api"] == "blas"]
    own = [lib for lib in every if "numpy" in lib["filepath"]] or every
    return max((lib["num_threads"] for lib in own), default=1)


@pytest.mark.parametrize("allowed", [1, 2])
def test_results_come_in_the_order_of_the_items(allowed: int) -> None:
    with threadpool_limits(allowed):
        found = spread(lambda i: (time.sleep(0.002 * (i % 3)), i * i)[1], range(20))
    assert found == [i * i for i in range(20)]
    assert spread(lambda i: i, []) == []


def test_as_many_threads_as_the_linear_algebra_may_use_each_with_one() -> None:
    np.ones((2, 2)) @ np.ones((2, 2))  # so that there is a library to ask
    seen: list[tuple[int, int]] = []

    def look(_: int) -> None:
        time.sleep(0.01)
        seen.append((threading.get_ident(), blas_threads()))

    with threadpool_limits(2):
        spread(look, range(8))
        assert blas_threads() == 2
    assert {threads for _, threads in seen} == {1}
    assert len({thread for thread, _ in seen}) == 2
    seen.clear()
    with threadpool_limits(1):
        spread(look, range(4))
    assert {thread for thread, _ in seen} == {threading.get_ident()}


def test_an_error_of_a_block_is_told() -> None:
    with threadpool_limits(2), pytest.raises(ZeroDivisionError):
        spread(lambda i: 1 // i, [2, 1, 0])
