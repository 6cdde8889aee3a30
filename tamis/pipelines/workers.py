"""Processes that work for this one, and end with it."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from typing import Any, TypeVar

from tamis.errors import TamisError

Item = TypeVar("Item")
Made = TypeVar("Made")


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


def each(
    pool: ProcessPoolExecutor,
    work: Callable[[Item], Made],
    items: Sequence[Item],
    *,
    called: str,
    fewer: str,
) -> Iterator[tuple[Item, Made]]:
    """Every item with what `work` made of it, as they come. What waits is dropped at an error.

    Raises `TamisError` if a process, `called` so, died; it advises to run again with `fewer`.
    """
    with pool:
        waiting = {pool.submit(work, item): item for item in items}
        try:
            for done in as_completed(waiting):
                yield waiting[done], done.result()
        except BrokenProcessPool as error:
            raise TamisError(
                f"{called} died, perhaps for lack of memory; what the others finished is stored, "
                f"so run the same again, with fewer {fewer}"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _begin(begin: Callable[..., None], given: tuple[Any, ...]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # As the command does for itself: a fresh process begins with Python's own filters.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    begin(*given)


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
