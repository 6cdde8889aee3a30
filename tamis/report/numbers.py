"""Numbers as people read them."""

from __future__ import annotations

import math

from tamis.report.parts import Interval

MINUS = "\u2212"
THIN = "\u2009"


def integer(value: int) -> str:
    """An integer with thousands set apart."""
    return f"{value:,}"


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
    values = (given.value, given.low, given.high)
    # What is not nothing shall not read as nothing: a bound is looked at for its side of zero.
    digits = next((d for d in (3, 4) if all(round(x, d) or not x for x in values)), 5)
    # A bound that rounds to nothing has no sign.
    parts = [
        f"{round(x, digits) or 0.0:{'+' if signed else ''}.{digits}f}".replace("-", MINUS)
        for x in values
    ]
    return f"{parts[0]} [{parts[1]}, {parts[2]}]"


def share(part: int, whole: int) -> str:
    """A part of a whole in per cent."""
    return f"{100 * part / whole:.1f}%" if whole else "none"


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min"
