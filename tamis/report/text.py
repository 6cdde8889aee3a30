"""Texts of unknown origin, made fit to stand on a page. Escaping is the template's."""

from __future__ import annotations

NAMED = 26  # characters of a name in a drawing, where no line breaks
LONGEST = 1200  # characters of a turn; a page is for looking, the store has the whole


def shown(text: str) -> str:
    """A text as it may stand on the page: cut, and control characters as their pictures."""
    cut = text if len(text) <= LONGEST else f"{text[:LONGEST]} …"
    return "".join(_visible(character) for character in cut)


def short(name: str) -> str:
    """A name as it may stand in a drawing."""
    return shown(name if len(name) <= NAMED else f"{name[: NAMED - 1]}…")


def _visible(character: str) -> str:
    code = ord(character)
    if code < 32 and character not in "\n\t":
        return chr(0x2400 + code)
    if code == 127 or 0x80 <= code < 0xA0 or 0xD800 <= code < 0xE000:
        return "\ufffd"
    return character
