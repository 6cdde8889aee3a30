"""Charts of lines as inline SVG, in the style of the other drawings."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from tamis.report.numbers import decimal
from tamis.report.parts import Curve, Line
from tamis.report.text import shown

WIDTH, HEIGHT = 480, 200
LEFT, RIGHT, TOP, BOTTOM = 64, 8, 10, 36
_DASHES = ("", "5 3", "2 3", "8 3 2 3")
# Classes of lines that are neither kept nor dropped, in order.
_PLAIN = 8
# An axis longer than this counts something.
_COUNTED = 20


def figures(curves: Sequence[Curve]) -> Markup:
    """The charts as figures beside each other, each with the names of its lines."""
    made = [
        Markup("<figure><figcaption>{title}</figcaption>{drawn}{key}{note}</figure>").format(
            title=shown(curve.title),
            drawn=lines(curve),
            key=key(curve) if len(curve.lines) > 1 else "",
            note=Markup('<p class="values">{}</p>').format(shown(curve.note)) if curve.note else "",
        )
        for curve in curves
    ]
    return Markup('<div class="grid charts">{}</div>').format(Markup("").join(made))


def lines(curve: Curve) -> Markup:
    """The lines of a chart over common axes. Points that are not finite are left out."""
    points = [_finite(line) for line in curve.lines]
    some = [p for line in points for p in line]
    if not some:
        return Markup("")
    x, y = _range([p[0] for p in some]), _range([p[1] for p in some] + _ends(curve))
    drawn = Markup("").join(
        _path(found, _style(curve.lines, at), x, y) + _dots(curve, at, x, y)
        for at, found in enumerate(points)
        if found
    )
    return Markup(
        '<svg class="chart wide" viewBox="0 0 {w} {h}" role="img" aria-label="{label}">'
        '<line class="axis" x1="{l}" x2="{r}" y1="{b}" y2="{b}"/>{ticks}{drawn}'
        '<text class="label" x="{m}" y="{t}" text-anchor="middle">{name}</text></svg>'
    ).format(
        w=WIDTH,
        h=HEIGHT,
        label=_described(curve, points),
        l=LEFT,
        r=WIDTH - RIGHT,
        b=HEIGHT - BOTTOM,
        ticks=_ticks(x, y),
        drawn=drawn,
        m=(LEFT + WIDTH - RIGHT) / 2,
        t=HEIGHT - 4,
        name=shown(curve.x_label),
    )


def key(curve: Curve) -> Markup:
    """The names of the lines, each beside a piece of it."""
    items = [
        Markup(
            '<li><svg class="dash" viewBox="0 0 28 8" aria-hidden="true">'
            '<line class="line {style}" x1="0" x2="28" y1="4" y2="4"{dash}/></svg>{name}</li>'
        ).format(
            style=_style(curve.lines, at)[0],
            dash=_dash(_style(curve.lines, at)[1]),
            name=shown(line.name),
        )
        for at, line in enumerate(curve.lines)
    ]
    return Markup('<ul class="key">{}</ul>').format(Markup("").join(items))


def _finite(line: Line) -> list[tuple[float, float]]:
    return [
        (float(x), float(y))
        for x, y in zip(line.x, line.y, strict=True)
        if math.isfinite(x) and math.isfinite(y)
    ]


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _style(all_lines: Sequence[Line], at: int) -> tuple[str, str]:
    """The class of a line, and its dashes: lines differ without colour too."""
    side = all_lines[at].side
    if side:
        return side, "" if side == "kept" else "5 3"
    plain = [i for i, line in enumerate(all_lines) if not line.side].index(at)
    return f"c{plain % _PLAIN}", _DASHES[(plain // 2 + plain // _PLAIN) % len(_DASHES)]


def _dash(dashes: str) -> Markup:
    return Markup(' stroke-dasharray="{}"').format(dashes) if dashes else Markup("")


def _path(
    points: Sequence[tuple[float, float]],
    style: tuple[str, str],
    x: tuple[float, float],
    y: tuple[float, float],
) -> Markup:
    places = " ".join(
        f"{LEFT + (WIDTH - LEFT - RIGHT) * (a - x[0]) / (x[1] - x[0]):.1f},"
        f"{HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (b - y[0]) / (y[1] - y[0]):.1f}"
        for a, b in points
    )
    return Markup('<polyline class="line {}" points="{}"{}/>').format(
        style[0], places, _dash(style[1])
    )


def _ends(curve: Curve) -> list[float]:
    """How far the spreads of the points reach."""
    return [
        y + sign * far
        for line in curve.lines
        for y, far in zip(line.y, line.spread, strict=False)
        if math.isfinite(y)
        for sign in (-1, 1)
    ]


def _dots(curve: Curve, at: int, x: tuple[float, float], y: tuple[float, float]) -> Markup:
    """The points of a line with their spread, each line a little beside the others."""
    line = curve.lines[at]
    dotted = [i for i, one in enumerate(curve.lines) if one.spread]
    if at not in dotted:
        return Markup("")
    beside = 3.5 * (dotted.index(at) - (len(dotted) - 1) / 2)
    name = _style(curve.lines, at)[0]
    made = []
    for a, b, far in zip(line.x, line.y, line.spread, strict=True):
        left = LEFT + (WIDTH - LEFT - RIGHT) * (a - x[0]) / (x[1] - x[0]) + beside
        middle, top, bottom = (_height(value, y) for value in (b, b + far, b - far))
        made.append(
            Markup(
                '<line class="line {c}" x1="{x:.1f}" x2="{x:.1f}" y1="{t:.1f}" y2="{b:.1f}"/>'
                '<circle class="point {c}" cx="{x:.1f}" cy="{m:.1f}" r="3"/>'
            ).format(c=name, x=left, t=top, b=bottom, m=middle)
        )
    return Markup("").join(made)


def _height(value: float, y: tuple[float, float]) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - y[0]) / (y[1] - y[0])


def _ticks(x: tuple[float, float], y: tuple[float, float]) -> Markup:
    low, high = HEIGHT - BOTTOM, TOP + 8
    # Steps, picks and tokens are counted; a fraction of one says nothing.
    first, last = (round(v) if x[1] - x[0] > _COUNTED else v for v in x)
    places = [
        (LEFT, low + 14, "start", first),
        (WIDTH - RIGHT, low + 14, "end", last),
        (LEFT - 6, low, "end", y[0]),
        (LEFT - 6, high, "end", y[1]),
    ]
    return Markup("").join(
        Markup('<text class="label" x="{}" y="{}" text-anchor="{}">{}</text>').format(
            a, b, anchor, decimal(value)
        )
        for a, b, anchor, value in places
    )


def _described(curve: Curve, points: Sequence[Sequence[tuple[float, float]]]) -> str:
    told = [
        f"{shown(line.name)} from {decimal(found[0][1])} to {decimal(found[-1][1])}"
        for line, found in zip(curve.lines, points, strict=True)
        if found
    ]
    return f"{shown(curve.title)} over {shown(curve.x_label)}: {'; '.join(told)}"
