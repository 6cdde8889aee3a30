"""Blocks of a computation on all cores: a block a core, each in one thread of the linear algebra.

A product spreads over the cores by itself; what stands between two products (largest values, sums)
does not, and takes as long when the product is short.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

from threadpoolctl import ThreadpoolController

Item = TypeVar("Item")
Result = TypeVar("Result")


def spread(call: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """The results of `call` in the order of the items.

    Uses as many threads as the linear algebra is allowed to (OMP_NUM_THREADS and the like count).
    """
    work = list(items)
    controller = _controller()
    allowed = [lib["num_threads"] for lib in controller.info() if lib["user_api"] == "blas"]
    workers = min(max(allowed, default=1), len(work))
    if workers < 2:
        return [call(item) for item in work]
    with controller.limit(limits=1), ThreadPoolExecutor(workers) as pool:
        return list(pool.map(call, work))


@cache
def _controller() -> ThreadpoolController:
    # Looking for libraries takes milliseconds; numpy's, which the blocks use, is there by now.
    return ThreadpoolController()
