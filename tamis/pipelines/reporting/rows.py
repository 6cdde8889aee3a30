"""Rows kept beside rows dropped, and the distribution of each signal on either side."""

from __future__ import annotations

from collections.abc import Sequence

from tamis import report as page
from tamis.pipelines.histogram import histogram
from tamis.pipelines.reasons import meaning
from tamis.pipelines.reporting.subject import MOST_ROWS, Subject, floats, ordered, used

SHOWN_ROWS = 20
# md5 draws at random, but the same rows each time.
_ROWS = """
select s.id, p.source, s.reason, p.messages from selections s join samples p using (id)
where s.selection = $key and s.kept = $kept and s.reason != 'held_out' order by md5(s.id) limit $n
"""


def samples(subject: Subject, *, kept: bool) -> list[page.Sample]:
    """Twenty rows of one side, drawn at random."""
    rows = subject.rows(_ROWS, kept=kept, n=SHOWN_ROWS)
    values = _values(subject, [r["id"] for r in rows], used(subject))
    return [
        page.Sample(
            r["id"],
            r["source"],
            [(m["role"], m["content"] or m["tool_calls"] or "") for m in r["messages"]]
            if subject.texts
            else [],
            meaning(r["reason"]),
            values.get(r["id"], {}),
        )
        for r in rows
    ]


def histograms(subject: Subject) -> list[page.Histogram]:
    """The distribution of each signal, of at most `MOST_ROWS` rows."""
    if subject.key is None:
        return []
    return [_histogram(subject, name) for name in ordered(subject)]


def sampled(subject: Subject) -> str:
    """Says so where distributions are those of a sample."""
    return f"Drawn from {MOST_ROWS:,} rows at random." if subject.last else ""


def _histogram(subject: Subject, signal: str) -> page.Histogram:
    some = "and s.id <= $last" if subject.last else ""
    table = subject.table(
        "select s.kept, l.value from selections s join signals_long l using (id) "
        f"where s.selection = $key and l.signal = $signal {some}",
        signal=signal,
    )
    return histogram(signal, floats(table, "value"), table.column("kept").to_numpy())


def _values(
    subject: Subject, ids: Sequence[str], signals: Sequence[str]
) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    rows = subject.rows(
        "select id, signal, value from signals_long where id in $ids and signal in $signals "
        "and isfinite(value) order by signal",
        ids=list(ids),
        signals=list(signals),
    )
    for row in rows:
        found.setdefault(row["id"], {})[row["signal"]] = row["value"]
    return found
