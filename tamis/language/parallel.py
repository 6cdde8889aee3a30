"""One batch a core: how work is spread on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any


@contextmanager
def spread(device: str) -> Iterator[Callable[..., Any]]:
    """Give a `map` that runs as many calls at a time as torch may use threads, on a CPU.

    Each call then computes in a single thread. Small batches scale so much better than by sharing
    every operation between the cores, a core that is busy elsewhere delays only its own batch, and
    values do not depend on the number of threads. torch's thread count is 1 for the whole process
    inside the block, and afterwards what it was. On a GPU it is the plain `map`.
    """
    import torch

    threads = torch.get_num_threads()
    if device == "cuda" or threads == 1:
        yield map
        return
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="tamis-core")
    try:
        yield pool.map
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)
