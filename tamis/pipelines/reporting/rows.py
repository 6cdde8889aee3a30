"""Rows kept beside rows dropped, and the distribution of each signal on either side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tamis import report as page
from tamis.pipelines.deciding import limits
from tamis.pipelines.histogram import histogram
from tamis.pipelines.reasons import meaning
from tamis.pipelines.reporting.subject import MOST_ROWS, Subject, floats, ordered, used

SHOWN_ROWS = 20
# How much of the nearest kept row is shown.
_NEAR_CHARS = 160
# md5 draws at random, but the same rows each time.
_ROWS = """
select s.id, p.source, s.reason, p.messages, s.rank, s.nearest_kept, s.similarity,
       (select messages from samples n where n.id = s.nearest_kept) as near,
       (select count(*) from selections t where t.selection = $key and t.kept) as total
from selections s join samples p using (id)
where s.selection = $key and s.kept = $kept and s.reason != 'held_out' order by md5(s.id) limit $n
"""


def samples(subject: Subject, *, kept: bool) -> list[page.Sample]:
    """Twenty rows of one side, drawn at random."""
    rows = subject.rows(_ROWS, kept=kept, n=SHOWN_ROWS)
    values = _values(subject, [r["id"] for r in rows], used(subject))
    filters = subject.settings.get("filters") or []
    return [
        page.Sample(
            r["id"],
            r["source"],
            [(m["role"], m["content"] or m["tool_calls"] or "") for m in r["messages"]]
            if subject.texts
            else [],
            _why(r, filters),
            values.get(r["id"], {}),
            _near(r, texts=subject.texts),
        )
        for r in rows
    ]


def _why(row: Mapping[str, Any], filters: Sequence[Mapping[str, Any]]) -> str:
    """The fate of a row: its place among the kept, or why it was dropped, with the limits."""
    if row["reason"] == "selected":
        return f"number {row['rank'] + 1:,} of {row['total']:,}"
    kind, _, column = row["reason"].partition(":")
    rules = [limits(f) for f in filters if kind == "filter" and f["column"] == column]
    return f"{column}: {'; '.join(rules)}" if rules else meaning(row["reason"])


def _near(row: Mapping[str, Any], *, texts: bool) -> str:
    """The kept row that the method holds for the nearest, with how it begins."""
    if row["nearest_kept"] is None:
        return ""
    like = "" if row["similarity"] is None else f", similarity {row['similarity']:.3f}"
    told = f"nearest kept {row['nearest_kept'][:12]}{like}"
    said = [m["content"] for m in row["near"] or [] if m["content"]]
    if not (texts and said):
        return told
    words = " ".join(said[0].split())
    return f"{told}: {words if len(words) <= _NEAR_CHARS else words[: _NEAR_CHARS - 3] + '...'}"


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
