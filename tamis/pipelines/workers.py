"""Processes that work for this one, and end with it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from typing import Any


def processes(
    count: int, begin: Callable[..., None], given: tuple[Any, ...]
) -> ProcessPoolExecutor:
    """A pool of fresh processes, each of which calls `begin(*given)` first.

    They end when this process does, also when it is killed: a worker left behind would hold the
    locks of what it works on, and the next run would wait for it.
    """
    return ProcessPoolExecutor(
        count, get_context("spawn"), initializer=_begin, initargs=(begin, given)
    )


def _begin(begin: Callable[..., None], given: tuple[Any, ...]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    begin(*given)


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
