"""What to check before a decision: licences, personal data, contamination, length, truncation."""

from __future__ import annotations

from typing import Any

from tamis import report as page
from tamis.pipelines.reporting.subject import TOKENS, Subject

# From these values on a row counts as holding a benchmark item.
_HELD = {"contamination": ("overlap", 0.5), "contamination_semantic": ("similarity", 0.9)}
_BENCHMARKS = "add a score with scorer: contamination and the benchmarks"
_TRUNCATED = 0.01  # a share of cut rows that is worth a look
_SOME = 1e-9  # any share above 0
_LICENCES = """
select coalesce(licence, '') licence, count(*) n from samples join selections s using (id)
where s.selection = $key and s.kept group by 1 order by n desc, 1
"""
_SHARES = """
select count(*) filter (s.kept) kept, count(*) filter (s.kept and value >= $least) held,
       count(*) total, count(*) filter (value >= $least) held_before,
       median(value) filter (s.kept) middle, median(value) middle_before,
       quantile_cont(value, 0.95) filter (s.kept) high
from selections s left join (select id, value from signals_long where signal = $signal) using (id)
where s.selection = $key
"""


def boxes(subject: Subject) -> list[page.Box]:
    """A box for everything to check, those that the store has no figures of among them."""
    if subject.key is None:
        return []
    held = [_held(subject, scorer) for scorer in _HELD]
    made = [
        _licences(subject),
        _pii(subject) or _unchecked("Personal data", "add a score with scorer: pii"),
        *(held if any(held) else [_unchecked("Contamination", _BENCHMARKS)]),
        _length(subject),
        _truncated(subject) or _unchecked("Truncation", "name tune.model, whose limit counts"),
    ]
    return [box for box in made if box is not None]


def _unchecked(title: str, how: str) -> page.Box:
    return page.Box(title, "not checked", how, checked=False)


def _licences(subject: Subject) -> page.Box | None:
    rows = subject.rows(_LICENCES)
    total = sum(r["n"] for r in rows)
    if not total:
        return None
    unknown = sum(r["n"] for r in rows if not r["licence"])
    named = [r for r in rows if r["licence"]]
    shares = ", ".join(f"{r['licence']} {r['n'] / total:.0%}" for r in named[:4])
    note = f"{unknown:,} of {total:,} chosen rows carry no licence" if unknown else "of chosen rows"
    figure = shares or "unknown"
    return page.Box("Licences", figure, note, warn=unknown > 0)


def _pii(subject: Subject) -> page.Box | None:
    names = subject.made_by("pii")
    if not names:
        return None
    r = _shares(subject, f"{names[0]}.any", 1)
    note = f"hold mail addresses, numbers or keys; before: {_percent(r['held_before'], r['total'])}"
    return page.Box("Personal data", _rows(r), note, warn=r["held"] > 0)


def _held(subject: Subject, scorer: str) -> page.Box | None:
    names = subject.made_by(scorer)
    if not names:
        return None
    field, least = _HELD[scorer]
    r = _shares(subject, f"{names[0]}.{field}", least)
    how = "by meaning" if scorer.endswith("semantic") else "word for word"
    before = _percent(r["held_before"], r["total"])
    note = f"have {field} {least:g} or more with a benchmark item; before: {before}"
    return page.Box(f"Contamination, {how}", _rows(r), note, warn=r["held"] > 0)


def _length(subject: Subject) -> page.Box | None:
    words = [f"{name}.all_words" for name in subject.made_by("length")]
    signal = TOKENS if TOKENS in subject.signals else next(iter(words), None)
    if signal is None:
        return None
    unit = "tokens" if signal == TOKENS else "words"
    r = _shares(subject, signal, 0)
    if r["middle"] is None:
        return None
    note = f"a chosen row in the middle, {r['high']:,.0f} at the 95th percentile; before: "
    return page.Box("Length", f"{r['middle']:,.0f} {unit}", f"{note}{r['middle_before']:,.0f}")


def _truncated(subject: Subject) -> page.Box | None:
    names = [n for n in subject.made_by("tokens") if f"{n}.cut" in subject.signals]
    if not names:
        return None
    r = _shares(subject, f"{names[0]}.cut", _SOME)
    note = f"are cut at the model's limit; before: {_percent(r['held_before'], r['total'])}"
    return page.Box("Truncation", _rows(r), note, warn=r["held"] > _TRUNCATED * r["kept"])


def _shares(subject: Subject, signal: str, least: float) -> dict[str, Any]:
    return subject.rows(_SHARES, signal=signal, least=least)[0]


def _rows(r: dict[str, Any]) -> str:
    return f"{r['held']:,} rows ({_percent(r['held'], r['kept'])})"


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "none"
