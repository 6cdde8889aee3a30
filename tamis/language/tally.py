"""How much the models of this process have read and written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(slots=True)
class Tally:
    """`passes`: sequences that went through a model, each read once. `tokens`: those of these
    sequences before any prediction, padding and what a batch shares not counted twice or less.
    `written`: tokens that models wrote, each one more step of a sequence read before."""

    passes: int = 0
    tokens: int = 0
    written: int = 0

    def add(self, other: Tally) -> None:
        """Count what another tally counted."""
        self.passes += other.passes
        self.tokens += other.tokens
        self.written += other.written


_running: list[Tally] = []


def note(passes: int, tokens: int, written: int = 0) -> None:
    """Count sequences that were read, for whoever is counting. Called by what runs models, from
    one thread at a time."""
    for tally in _running:
        tally.add(Tally(passes, tokens, written))


@contextmanager
def counted() -> Iterator[Tally]:
    """Count what models read inside the block, whichever thread they run in."""
    tally = Tally()
    _running.append(tally)
    try:
        yield tally
    finally:
        _running[:] = [t for t in _running if t is not tally]
