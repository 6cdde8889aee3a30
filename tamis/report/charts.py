"""Drawings as inline SVG: colours come from the page's style, so they follow dark and light."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from markupsafe import Markup

from tamis.report.numbers import decimal, integer, interval
from tamis.report.parts import Histogram, Interval
from tamis.report.text import short, shown

WIDTH, HEIGHT = 320, 132
LEFT, RIGHT, TOP, BOTTOM = 4, 4, 8, 20


def histogram(data: Histogram) -> Markup:
    """Kept against dropped rows: each side as shares of its own rows, so that shapes compare."""
    bars = Markup("").join(
        _bars(side, name, len(data.kept), _tallest(data))
        for side, name in ((data.dropped, "dropped"), (data.kept, "kept"))
    )
    return Markup(
        '<svg class="chart" viewBox="0 0 {w} {h}" role="img" aria-label="{label}">'
        '{bars}{medians}<line class="axis" x1="{l}" x2="{r}" y1="{y}" y2="{y}"/>{ticks}</svg>'
    ).format(
        w=WIDTH,
        h=HEIGHT,
        label=_described(data),
        bars=bars,
        medians=_medians(data),
        l=LEFT,
        r=WIDTH - RIGHT,
        y=HEIGHT - BOTTOM,
        ticks=_ticks(data.edges),
    )


def intervals(values: Sequence[tuple[str, Interval]]) -> Markup:
    """Intervals one below the other on one axis, a dot for the value."""
    low = min(i.low for _, i in values)
    high = max(i.high for _, i in values)
    pad = (high - low) * 0.06 or 1.0
    low, high = low - pad, high + pad
    rows = [_whisker(name, i, 26 + 34 * at, low, high) for at, (name, i) in enumerate(values)]
    height = 34 * len(values) + 2
    label = "; ".join(
        f"{shown(name)} {decimal(i.value)} between {decimal(i.low)} and {decimal(i.high)}"
        for name, i in values
    )
    return Markup(
        '<svg class="chart" viewBox="0 0 {w} {h}" role="img" aria-label="{label}">{rows}</svg>'
    ).format(w=WIDTH, h=height, label=label, rows=Markup("").join(rows))


def difference(name: str, given: Interval) -> Markup:
    """One interval beside zero, which is where nothing is shown."""
    far = max(abs(given.low), abs(given.high), abs(given.value)) * 1.15 or 1.0

    def x(value: float) -> str:
        return f"{WIDTH / 2 + (WIDTH / 2 - 8) * value / far:.1f}"

    return Markup(
        '<svg class="chart" viewBox="0 0 {w} 40" role="img" aria-label="{label}">'
        '<line class="axis" x1="{m}" x2="{m}" y1="0" y2="26"/>'
        '<line class="whisker" x1="{a}" x2="{b}" y1="13" y2="13"/>'
        '<circle class="dot" cx="{v}" cy="13" r="5"/>'
        '<text class="label" x="{m}" y="38" text-anchor="middle">0</text></svg>'
    ).format(
        w=WIDTH,
        label=f"{shown(name)}: {interval(given, signed=True)}",
        m=WIDTH / 2,
        a=x(given.low),
        b=x(given.high),
        v=x(given.value),
    )


def _whisker(name: str, given: Interval, y: int, low: float, high: float) -> Markup:
    def x(value: float) -> str:
        return f"{8 + (WIDTH - 16) * (value - low) / (high - low):.1f}"

    return Markup(
        '<text class="label" x="0" y="{t}">{name}</text>'
        '<line class="whisker" x1="{a}" x2="{b}" y1="{y}" y2="{y}"/>'
        '<circle class="dot" cx="{m}" cy="{y}" r="4"/>'
    ).format(t=y - 11, name=short(name), a=x(given.low), b=x(given.high), m=x(given.value), y=y)


def _bars(counts: Sequence[int], name: str, bins: int, tallest: float) -> Markup:
    total = sum(counts)
    if not total:
        return Markup("")
    step = (WIDTH - LEFT - RIGHT) / bins
    room = HEIGHT - TOP - BOTTOM
    rects = []
    for at, count in enumerate(counts):
        height = room * (count / total) / tallest
        if count:
            rects.append(
                Markup('<rect x="{}" y="{}" width="{}" height="{}"/>').format(
                    f"{LEFT + at * step + 0.5:.1f}",
                    f"{HEIGHT - BOTTOM - height:.1f}",
                    f"{step - 1:.1f}",
                    f"{height:.1f}",
                )
            )
    return Markup('<g class="{}">{}</g>').format(name, Markup("").join(rects))


def _tallest(data: Histogram) -> float:
    """The largest share in any bin of any side."""
    shares = [max(side) / sum(side) for side in (data.kept, data.dropped) if sum(side)]
    return max(shares, default=1.0)


def _medians(data: Histogram) -> Markup:
    lines = []
    for value, name in ((data.dropped_median, "dropped"), (data.kept_median, "kept")):
        if value is not None:
            x = f"{LEFT + _place(data.edges, value) * (WIDTH - LEFT - RIGHT):.1f}"
            lines.append(
                Markup('<line class="median {}" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
                    name, x, x, TOP - 6, HEIGHT - BOTTOM
                )
            )
    return Markup("").join(lines)


def _place(edges: Sequence[float], value: float) -> float:
    """Where a value lies between 0 and 1; every bin is as wide as any other on the page."""
    bins = len(edges) - 1
    at = min(max(bisect_right(edges, value) - 1, 0), bins - 1)
    within = (value - edges[at]) / (edges[at + 1] - edges[at])
    return (at + min(max(within, 0.0), 1.0)) / bins


def _ticks(edges: Sequence[float]) -> Markup:
    y, bins = HEIGHT - 5, len(edges) - 1
    ends = [(LEFT, "start", edges[0]), (WIDTH - RIGHT, "end", edges[-1])]
    inner = []
    if bins % 2 == 0:
        inner.append((WIDTH / 2, "middle", edges[bins // 2]))
    return Markup("").join(
        Markup('<text class="label" x="{}" y="{}" text-anchor="{}">{}</text>').format(
            x, y, anchor, decimal(value)
        )
        for x, anchor, value in [*ends, *inner]
    )


def _described(data: Histogram) -> str:
    sides = []
    for name, side, median in (
        ("kept", data.kept, data.kept_median),
        ("dropped", data.dropped, data.dropped_median),
    ):
        middle = "" if median is None else f", median {decimal(median)}"
        sides.append(f"{integer(sum(side))} {name} rows{middle}")
    return f"Histogram of {shown(data.signal)}: {'; '.join(sides)}"
