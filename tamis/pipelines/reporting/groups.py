"""Groups of duplicates, and how much of the labels the chosen rows hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tamis import report as page
from tamis.pipelines.reporting.subject import Subject

SHOWN_GROUPS, SHOWN_MEMBERS, SHOWN_LABELS = 8, 10, 40
_SIZES = """
with g as (
  select d.signal, d.number, count(*) n, count(*) filter (s.kept) kept
  from duplicates d join selections s using (id) where s.selection = $key group by 1, 2
)
select signal, count(*) groups, sum(n)::bigint as members, count(*) filter (kept > 1) kept_twice
from g group by 1 order by 1
"""
_MEMBERS = """
with g as (
  select d.number, count(*) n from duplicates d join selections s using (id)
  where s.selection = $key and d.signal = $signal group by 1 order by n desc, 1 limit $groups
), m as (
  select d.*, g.n, s.kept, p.messages,
         row_number() over (partition by d.number order by d.representative desc, s.kept desc, d.id)
         place
  from duplicates d join g using (number) join selections s on s.id = d.id
  join samples p on p.id = d.id where s.selection = $key and d.signal = $signal
)
select * from m where place <= $members order by n desc, number, place
"""
_LABELS = """
select label, count(*) before, count(*) filter (s.kept) after
from labels l join selections s using (id) where s.selection = $key and l.signal = $signal
group by 1 order by before desc, label
"""


def duplicates(subject: Subject) -> list[page.Duplicates]:
    """The groups that each signal of duplicates found, with the largest of them."""
    if subject.key is None:
        return []
    return [
        page.Duplicates(
            r["signal"], r["groups"], r["members"], r["kept_twice"], _shown(subject, r["signal"])
        )
        for r in subject.rows(_SIZES)
    ]


def labels(subject: Subject) -> list[page.Coverage]:
    """Rows with each label before and after, for each signal of labels."""
    if subject.key is None:
        return []
    names = [r["signal"] for r in subject.rows("select distinct signal from labels order by 1")]
    found = []
    for name in names:
        rows = subject.rows(_LABELS, signal=name)
        if rows:
            title = f"Labels of {name}"
            counts = [(_name(subject, at, r["label"]), r) for at, r in enumerate(rows)]
            found.append(coverage(title, [(n, r["before"], r["after"]) for n, r in counts]))
    return found


def coverage(title: str, counts: Sequence[tuple[str, int, int]]) -> page.Coverage:
    """Counts (name, before, after), the largest first, as the page shows them."""
    shown = [page.Covered(*count) for count in counts[:SHOWN_LABELS]]
    lost = sum(not after for _, _, after in counts)
    return page.Coverage(title, len(counts), lost, shown)


def _name(subject: Subject, at: int, label: str) -> str:
    """Labels may be made of the texts, so they are numbered where texts may not be shown."""
    return label if subject.texts else f"label {at + 1}"


def _shown(subject: Subject, signal: str) -> list[list[page.Member]]:
    rows = subject.rows(_MEMBERS, signal=signal, groups=SHOWN_GROUPS, members=SHOWN_MEMBERS)
    found: dict[int, list[page.Member]] = {}
    for r in rows:
        member = page.Member(
            r["id"],
            r["source"],
            r["kept"],
            r["representative"],
            r["similarity"],
            subject.text(said(r["messages"])),
        )
        found.setdefault(r["number"], []).append(member)
    return list(found.values())


def said(messages: Sequence[dict[str, Any]]) -> str:
    """A conversation in a few lines: its first question and the first answer to it."""
    turns = [(m["role"], " ".join((m["content"] or "").split())) for m in messages]
    asked = next((text for role, text in turns if role == "user" and text), "")
    told = next((text for role, text in turns if role == "assistant" and text), "")
    return f"{_cut(asked)}\n→ {_cut(told)}"


def _cut(text: str) -> str:
    return text if len(text) <= 146 else f"{text[:145]}…"
