"""Counts of a report: composition, reasons, what ingest refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tamis import report as page
from tamis.pipelines.reasons import meaning
from tamis.pipelines.reporting.subject import TOKENS, Subject, quoted

SHOWN_REJECTS = 5
SHOWN_LANGUAGES = 40
_TOKENS = "left join (select id, value from signals_long where signal = $tokens) t using (id)"
_SELECTED = """
select {part} source, count(*) rows_before, count(*) filter (s.kept) rows_after,
       sum(t.value)::bigint tokens_before,
       coalesce(sum(t.value * coalesce(s.repeat, 1)) filter (s.kept), 0)::bigint tokens_after
from selections s join {rows} p using (id) {tokens}
where s.selection = $key group by 1 order by {order}
"""
_UNSELECTED = """
select {part} source, count(*) rows_before, 0 rows_after, sum(t.value)::bigint tokens_before,
       0 tokens_after
from {rows} p {tokens} group by 1 order by {order}
"""
_REJECTED = """
select reason, sum(count(*)) over (partition by reason)::bigint total,
       list({place: file || ':' || line, text: text} order by file, line)[:$n] examples
from rejected group by reason order by total desc, reason
"""


def sources(subject: Subject) -> list[page.Composition]:
    """Rows and tokens by source, before and after."""
    return _composition(subject, "samples", "p.source", "1")


def languages(subject: Subject) -> list[page.Composition]:
    """The same by language, where a signal tells it; the most frequent first."""
    names = subject.made_by("lang")
    if not names or not subject.signals:
        return []
    part = f"coalesce(p.{quoted(names[0])}.code, 'not told')"
    return _composition(subject, "signals", part, "2 desc, 1")[:SHOWN_LANGUAGES]


def reasons(subject: Subject) -> dict[str, int]:
    """How many rows have each reason code."""
    rows = subject.rows(
        "select reason, count from reasons where selection = $key order by count desc, reason"
    )
    return {r["reason"]: r["count"] for r in rows}


def in_words(codes: Mapping[str, int]) -> dict[str, int]:
    """Reasons as people read them; codes of one meaning are counted together."""
    told: dict[str, int] = {}
    for reason, count in codes.items():
        told[meaning(reason)] = told.get(meaning(reason), 0) + count
    return told


def totals(
    subject: Subject, composition: Sequence[page.Composition], codes: Mapping[str, int]
) -> dict[str, int]:
    """The tiles at the top."""
    sizes = subject.rows(
        "select (select count(*) from rejected) rejected, "
        "(select count(*) filter (duplicate) from samples) duplicates"
    )[0]
    counts = {
        "ingested": sum(part.rows_before for part in composition),
        "rejected": sizes["rejected"],
        "exact duplicates": sizes["duplicates"],
    }
    if codes:
        counts["filtered out"] = sum(
            n for reason, n in codes.items() if reason.startswith(("filter:", "null:"))
        )
        counts["selected"] = sum(part.rows_after for part in composition)
        if all(part.tokens_after is not None for part in composition):
            counts["tokens selected"] = sum(part.tokens_after or 0 for part in composition)
    return counts


def rejected(subject: Subject) -> list[page.Rejected]:
    """What ingest refused, by reason, with some examples."""
    return [
        page.Rejected(
            r["reason"].replace("_", " "),
            r["total"],
            [(e["place"] or "", subject.text(e["text"])) for e in r["examples"]],
        )
        for r in subject.rows(_REJECTED, n=SHOWN_REJECTS)
    ]


def _composition(subject: Subject, rows: str, part: str, order: str) -> list[page.Composition]:
    query = _SELECTED if subject.key else _UNSELECTED
    query = query.format(rows=rows, part=part, tokens=_TOKENS, order=order)
    counted = TOKENS in subject.signals
    return [
        page.Composition(
            r["source"],
            r["rows_before"],
            r["rows_after"],
            (r["tokens_before"] or 0) if counted else None,
            r["tokens_after"] if counted else None,
        )
        for r in subject.rows(query, tokens=TOKENS)
    ]
