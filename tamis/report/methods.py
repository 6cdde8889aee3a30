"""Methods that were compared: the parts of their section, its drawings, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from tamis.report.numbers import THIN, decimal, duration, integer, interval
from tamis.report.parts import Curve, Interval
from tamis.report.text import short, shown

WIDTH, LEFT, RIGHT, ROW = 480, 8, 10, 38
_LABEL = 130  # units from zero, whose label is a word, to that of an end of the axis
NO_DIFFERENCE = "no difference shown"
RANDOM = "random"


@dataclass(frozen=True, slots=True)
class Contest:
    """One line of the table: means over seeds. `spread` is None with one seed, `difference` for
    random itself; `verdict` is in words. `figures` are other metrics by name."""

    method: str
    kind: str
    budget: str
    mean: float
    spread: float | None
    difference: Interval | None
    verdict: str
    figures: Mapping[str, float]
    rows: float | None
    tokens: float | None
    steps: float | None
    select: float | None
    tune: float | None


@dataclass(frozen=True, slots=True)
class Winner:
    """The best of a budget by one half of the evaluation rows, measured on the other; both None
    where there are no rows. `method` may be random: then there is no `minus_random`, nor is there
    one whose bounds are not known. `untuned` is the figure of the untuned model on the same rows,
    where there is one."""

    budget: str
    method: str
    mean: float
    named_on: int | None
    reported_on: int | None
    minus_random: Interval | None
    verdict: str
    second: str
    minus_second: Interval | None
    against_second: str
    untuned: float | None = None
    minus_untuned: Interval | None = None
    against_untuned: str = ""


@dataclass(frozen=True, slots=True)
class Overlap:
    """How much the subsets of a budget have in common: Jaccard similarities, None unknown."""

    budget: str
    methods: Sequence[str]
    jaccard: Sequence[Sequence[float | None]]


@dataclass(frozen=True, slots=True)
class Methods:
    """A comparison of methods. `lines` come by budget, the best first; `winners` by budget."""

    metric: str
    better: str
    seeds: int
    level: float
    over: str
    lines: Sequence[Contest]
    winners: Sequence[Winner]
    warnings: Sequence[str] = ()
    curves: Sequence[Curve] = ()
    overlaps: Sequence[Overlap] = ()
    untuned: float | None = None
    others: Sequence[str] = field(default_factory=tuple)

    @property
    def budgets(self) -> list[tuple[str, list[Contest]]]:
        """The lines of each budget, in their order."""
        names = dict.fromkeys(line.budget for line in self.lines)
        return [(name, [x for x in self.lines if x.budget == name]) for name in names]

    @property
    def charted(self) -> list[tuple[str, list[Contest]]]:
        """Those to draw differences of: the full pool stands alone, and needs no chart."""
        return [
            (name, lines)
            for name, lines in self.budgets
            if len(lines) > 1 and any(line.difference is not None for line in lines)
        ]

    @property
    def compared(self) -> int:
        """How many differences from random there are."""
        return sum(line.difference is not None for line in self.lines)


def sentence(given: Methods, label: str) -> str:
    """What to decide by: the winner of the largest budget, on rows that had no say in it."""
    best = given.winners[-1]
    rows = "held-out rows that had no say in it" if best.reported_on else "the held-out rows"
    figure = f"{label} {best.mean:.3f} on {rows}"
    if best.method == RANDOM:
        return f"No method beat random rows at {best.budget}: random came first, {figure}."
    first = f"{best.method} came first, {figure}"
    if best.minus_random is None:
        return f"No difference shown at {best.budget}: {first}, with nothing known of other seeds."
    if best.verdict == NO_DIFFERENCE:
        told = f"No difference shown at {best.budget}: {first}, against random rows "
        return f"{told}{interval(best.minus_random, signed=True)}{_cost(given, best)}."
    told = f"At {best.budget} {first}, {_apart(best.verdict, 'random rows', best.minus_random)}"
    return f"{told}{_cost(given, best)}."


def aside(given: Methods, label: str) -> str:
    """How the winner stands to the second and to the untuned model, in words."""
    best = given.winners[-1]
    told = []
    if best.against_second == NO_DIFFERENCE:
        told.append(f"No difference is shown to the second, {best.second}.")
    if best.untuned is not None:
        untuned = f"The untuned model has {label} {best.untuned:.3f} on the same rows"
        if best.minus_untuned is None or best.against_untuned == NO_DIFFERENCE:
            told.append(f"{untuned}: {NO_DIFFERENCE}.")
        else:
            apart = _apart(best.against_untuned, "it", best.minus_untuned)
            told.append(f"{untuned}: {best.method} is {apart}.")
    return " ".join(told)


def _apart(verdict: str, than: str, found: Interval) -> str:
    """By how much something is better or worse than another."""
    ends = sorted((abs(found.low), abs(found.high)))
    spelt = interval(Interval(abs(found.value), *ends))
    return f"{verdict.split()[0]} than {than} by {spelt}"


def _cost(given: Methods, best: Winner) -> str:
    line = next(x for x in given.lines if (x.budget, x.method) == (best.budget, best.method))
    if line.select is None or line.tune is None:
        return ""
    return f"; selecting took {duration(line.select)}, tuning {duration(line.tune)}"


def forest(lines: Sequence[Contest], title: str) -> Markup:
    """Differences from random with their intervals, one below the other around zero."""
    given = [(line, line.difference) for line in lines if line.difference is not None]
    low = min(0.0, *(d.low for _, d in given))
    high = max(0.0, *(d.high for _, d in given))
    pad = (high - low) * 0.04 or 1.0
    low, high = low - pad, high + pad

    def x(value: float) -> str:
        return f"{LEFT + (WIDTH - LEFT - RIGHT) * (value - low) / (high - low):.1f}"

    rows = Markup("").join(
        Markup(
            '<text class="label" x="{l}" y="{t}">{name}</text>'
            '<line class="whisker {side}" x1="{a}" x2="{b}" y1="{y}" y2="{y}"/>'
            '<circle class="dot {side}" cx="{v}" cy="{y}" r="4"/>'
        ).format(
            l=LEFT,
            t=ROW * at + 15,
            name=short(line.method),
            side=_side(line),
            a=x(d.low),
            b=x(d.high),
            v=x(d.value),
            y=ROW * at + 28,
        )
        for at, (line, d) in enumerate(given)
    )
    height = ROW * len(given) + 30
    label = "; ".join(f"{shown(x.method)} {interval(d, signed=True)}" for x, d in given)
    return Markup(
        '<svg class="chart wide" viewBox="0 0 {w} {h}" role="img" aria-label="{title}: {label}">'
        '<line class="axis" x1="{zero}" x2="{zero}" y1="4" y2="{b}"/>{rows}'
        '{ends}<text class="label" x="{zero}" y="{t}" text-anchor="middle">random</text></svg>'
    ).format(
        w=WIDTH,
        h=height,
        title=shown(title),
        label=label,
        zero=x(0.0),
        b=height - 22,
        rows=rows,
        ends=_ends(float(x(0.0)), low, high, height - 6),
        t=height - 6,
    )


def _ends(zero: float, low: float, high: float, y: int) -> Markup:
    """The labels of the ends of the axis, where they do not run into that of its middle."""
    places = ((LEFT, "start", low), (WIDTH - RIGHT, "end", high))
    return Markup("").join(
        Markup('<text class="label" x="{}" y="{}" text-anchor="{}">{}</text>').format(
            at, y, anchor, decimal(round(value, 4))
        )
        for at, anchor, value in places
        if abs(at - zero) > _LABEL
    )


def _side(line: Contest) -> str:
    """The class that colours a difference: better, worse, or none shown."""
    return line.verdict.split()[0] if line.verdict != NO_DIFFERENCE else "none"


def count(value: float | None) -> str:
    """A mean number of rows, tokens or steps."""
    return "–" if value is None else integer(round(value))


def seconds(value: float | None) -> str:
    """Seconds of a step."""
    return "–" if value is None else duration(value)


def mean(value: float, spread: float | None) -> str:
    """A mean and the standard deviation over seeds."""
    return f"{value:.3f}" + ("" if spread is None else f"{THIN}±{THIN}{spread:.3f}")
