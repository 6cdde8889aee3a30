"""How tamis talks to people: lines and a progress bar on stderr; stdout is for results."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tamis.pipelines.context import Advance

# Where stderr is a file or a pipe, one line now and then instead of a bar.
_LINE_SECONDS = 30.0


def say(text: str) -> None:
    """One line for people."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def progress(title: str, total: int) -> Iterator[Advance]:
    """A progress bar with rows/s and time left; yields the function that advances it."""
    if sys.stderr.isatty():
        with _bar(title, total) as advance:
            yield advance
    else:
        yield _lines(title, total)


@contextmanager
def _bar(title: str, total: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Speed(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else f"{speed:,.1f}/s")

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Speed(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task(title, total=total or None)
        yield lambda n: bar.advance(task, n)


def _lines(title: str, total: int) -> Advance:
    start = last = time.monotonic()
    done = 0

    def advance(n: int) -> None:
        nonlocal done, last
        done += n
        now = time.monotonic()
        if now - last >= _LINE_SECONDS:
            last = now
            speed = done / (now - start)
            left = f", {max(total - done, 0) / speed:.0f} s left" if total and speed else ""
            of = f" of {total:,}" if total else ""
            say(f"{title}: {done:,}{of} ({speed:,.1f}/s{left})")

    return advance
