"""Which tokens hold given characters of a text, and which of them end a turn."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate

from tamis.language.template import RenderError, Turn


class Tokens:
    """The tokens of a text: finds those that cover given characters.

    A token covers what lies between the end of the token before it and its own end: the starts that
    tokenizers give may skip spaces. Bytes of one character have the same end.
    """

    def __init__(
        self,
        text: str,
        ids: list[int],
        offsets: Sequence[tuple[int, int]],
        special: frozenset[int],
    ):
        self.text, self.ids, self.special = text, ids, special
        self.ends = list(accumulate((stop for _, stop in offsets), max))

    def covering(self, start: int, stop: int) -> tuple[int, int]:
        """(first, past last) of the tokens that hold some of the characters."""
        first = bisect_right(self.ends, start)
        last = bisect_left(self.ends, stop, lo=min(first, len(self.ends)))
        while last + 1 < len(self.ends) and self.ends[last + 1] == self.ends[last]:
            last += 1  # further bytes of the same character
        return first, min(last + 1, len(self.ends))

    def pieces(self, turn: Turn) -> list[tuple[int, int]]:
        """The tokens of each piece of a turn; raises `RenderError` unless a special one ends it."""
        found = [self.covering(*piece) for piece in turn.pieces if piece[0] < piece[1]]
        end = self._last(*found[-1]) if found else None
        if end is None or self.ids[end] not in self.special:
            raise RenderError(
                "no_end_of_turn",
                f"message {turn.message}: no special token ends the assistant turn, so the model "
                "would not learn to stop",
            )
        if turn.content_end is None:
            return found
        first = found[-1][0]
        # Of several tokens behind the content the first ends the turn; the rest is the template's.
        while (before := self._last(first, end)) is not None:
            if self.ids[before] not in self.special or self._start(before) < turn.content_end:
                break
            end = before
        return [(first, end + 1)]

    def _start(self, at: int) -> int:
        return self.ends[at - 1] if at else 0

    def _last(self, first: int, stop: int) -> int | None:
        """The last token of a range that is not blank."""
        for at in range(stop - 1, first - 1, -1):
            if not self.text[self._start(at) : self.ends[at]].isspace():
                return at
        return None
