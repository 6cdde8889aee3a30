"""Composition as two bars, before and after, cut into the largest parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tamis.report.parts import Composition

SHOWN = 9  # parts with a colour of their own; the rest are one


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of both bars: its name, its colour's number, its shares of each side (0 to 1)."""

    name: str
    colour: int
    before: float
    after: float


@dataclass(frozen=True, slots=True)
class Stack:
    """The bars of one kind of composition, in tokens or, where those were not counted, rows."""

    title: str
    unit: str
    pieces: Sequence[Piece]


def stack(title: str, parts: Sequence[Composition]) -> Stack | None:
    """The bars of a composition, the largest parts first; None where there is nothing."""
    if not parts:
        return None
    counted = all(p.tokens_before is not None and p.tokens_after is not None for p in parts)
    sizes = [
        (p.source, p.tokens_before or 0, p.tokens_after or 0)
        if counted
        else (p.source, p.rows_before, p.rows_after)
        for p in parts
    ]
    sizes.sort(key=lambda size: (-size[1], size[0]))
    rest = sizes[SHOWN:]
    shown = sizes[:SHOWN]
    if rest:
        shown.append((f"{len(rest)} others", sum(r[1] for r in rest), sum(r[2] for r in rest)))
    before = sum(size[1] for size in sizes) or 1
    after = sum(size[2] for size in sizes) or 1
    return Stack(
        title,
        "tokens" if counted else "rows",
        [Piece(n, at, b / before, a / after) for at, (n, b, a) in enumerate(shown)],
    )
