"""Numbers as people read them."""

from __future__ import annotations

import math

from tamis.report.parts import Interval

MINUS = "\u2212"
THIN = "\u2009"


def integer(value: int) -> str:
    """An integer with thousands set apart."""
    return f"{value:,}".replace(",", THIN)


def decimal(value: float) -> str:
    """A value with four significant digits, without an exponent where people read none."""
    if not math.isfinite(value):
        return "none"
    if value and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.2e}".replace("-", MINUS)
    if abs(value) >= 1e4:
        return integer(round(value)).replace("-", MINUS)
    return f"{value:.4g}".replace("-", MINUS)


def interval(given: Interval, *, signed: bool = False) -> str:
    """A value and its interval; `signed` shows a plus."""
    spell = "{:+.3f}" if signed else "{:.3f}"
    # A bound that rounds to nothing has no sign.
    rounded = (round(x, 3) or 0.0 for x in (given.value, given.low, given.high))
    parts = [spell.format(x).replace("-", MINUS) for x in rounded]
    return f"{parts[0]} [{parts[1]}, {parts[2]}]"


def share(part: int, whole: int) -> str:
    """A part of a whole in per cent."""
    return f"{100 * part / whole:.1f}{THIN}%" if whole else "none"


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min"
