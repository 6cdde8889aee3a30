"""The map of the rows, and the coverage of the clusters that it shows."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tamis import report as page
from tamis.errors import StoreError
from tamis.numerics.blocked import nearest, unit_rows
from tamis.numerics.kmeans import cluster
from tamis.numerics.layout import NEIGHBOURS, plane
from tamis.pipelines.reasons import meaning
from tamis.pipelines.reporting.groups import coverage, said
from tamis.pipelines.reporting.subject import Subject, floats, ordered

MOST_POINTS = 20_000
MOST_CLUSTERS = 20
SHOWN_SIGNALS = 24
_BLOCK = 65_536  # rows whose cluster is looked up at once
_WORD = re.compile(r"[^\W\d_]{3,}")


@dataclass(frozen=True)
class Vectors:
    """The embedding of the pool: its name, ids ascending, and (n, d) on disk."""

    name: str
    ids: NDArray[Any]
    matrix: NDArray[np.float32]


def vectors(subject: Subject) -> Vectors | None:
    """The embedding that the selection used, else one the store has for every row; or None."""
    options = (subject.settings.get("select") or {}).get("options") or {}
    used = [str(v).removesuffix(".vector") for v in options.values() if str(v).endswith(".vector")]
    for name in [*used, *subject.made_by("embed")]:
        if name in subject.scorers:
            try:
                ids, matrix = subject.store.embeddings(name)
            except StoreError:
                continue  # not every row has one: a map of some would show a hole that is none
            return Vectors(name, np.asarray(ids), matrix)
    return None


def drawn(
    subject: Subject, given: Vectors | None
) -> tuple[page.EmbeddingMap | None, list[page.Coverage]]:
    """The map of at most 20,000 rows of the selection's pool, and its clusters' coverage."""
    if given is None or subject.key is None:
        return None, []
    rows = subject.rows("select id, kept from selections where selection = $key order by id")
    ids = np.array([r["id"] for r in rows])
    kept = np.array([r["kept"] for r in rows], dtype=bool)
    place = np.searchsorted(given.ids, ids)
    some = _points(kept)
    x = np.array(given.matrix[place[some]], dtype=np.float32)
    if len(x) < 2 or not np.isfinite(x).all():
        return None, []
    rng = np.random.default_rng(0)
    places, held = plane(x, rng=rng)
    found = cluster(unit_rows(x), min(MOST_CLUSTERS, max(2, len(x) // 25)), rng=rng)
    told = _told(subject, ids[some].tolist())
    names = _names(subject, told["texts"], found.labels)
    of = _clusters(given, place, found.centres)
    counts = [
        (name, int((of == at).sum()), int(((of == at) & kept).sum()))
        for at, name in enumerate(names)
    ]
    drawn_map = page.EmbeddingMap(
        x=places[:, 0].astype(np.float32),
        y=places[:, 1].astype(np.float32),
        kept=kept[some],
        cluster=found.labels,
        clusters=names,
        signals=_signals(subject, ids[some]),
        how=_how(given.name, held),
        drawn=_drawn(len(ids), kept, some),
        **told,
    )
    title = f"Clusters of {given.name}, computed for this page"
    return drawn_map, [coverage(title, counts)]


def _points(kept: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Which rows are shown: all, or so many of either side that the rarer one can be seen. Ids are
    hashes, so the first rows of a side are a random sample of it."""
    if len(kept) <= MOST_POINTS:
        return np.arange(len(kept))
    yes, no = np.flatnonzero(kept), np.flatnonzero(~kept)
    half = MOST_POINTS // 2
    most = MOST_POINTS - min(len(no), half) if len(yes) > half else len(yes)
    return np.sort(np.concatenate([yes[:most], no[: MOST_POINTS - min(most, len(yes))]]))


def _told(subject: Subject, ids: Sequence[str]) -> dict[str, Any]:
    """Source, reason and text of rows, in their order."""
    rows = subject.rows(
        "select s.id, p.source, s.reason, p.messages from selections s join samples p using (id) "
        "where s.selection = $key and s.id in (select unnest($ids)) order by s.id",
        ids=list(ids),
    )
    sources, source = np.unique([r["source"] for r in rows], return_inverse=True)
    reasons, reason = np.unique([meaning(r["reason"]) for r in rows], return_inverse=True)
    return {
        "ids": [r["id"] for r in rows],
        "source": source.astype(np.int64),
        "sources": sources.tolist(),
        "reason": reason.astype(np.int64),
        "reasons": reasons.tolist(),
        "texts": [said(r["messages"]) if subject.texts else "" for r in rows],
    }


def _signals(subject: Subject, ids: NDArray[Any]) -> dict[str, NDArray[np.float64]]:
    """The values of the first signals, NaN where a row has none; what is alike everywhere is left
    out."""
    found = {}
    for name in ordered(subject)[:SHOWN_SIGNALS]:
        table = subject.store.sql(
            "select id, value from signals_long where signal = $signal and "
            "id in (select unnest($ids)) order by id",
            {"signal": name, "ids": ids.tolist()},
        )
        values = np.full(len(ids), np.nan)
        values[np.searchsorted(ids, np.asarray(table.column("id").to_pylist()))] = floats(
            table, "value"
        )
        some = values[np.isfinite(values)]
        if len(some) and some.min() < some.max():
            found[name] = values
    return found


def _clusters(
    given: Vectors, place: NDArray[np.int64], centres: NDArray[np.float32]
) -> NDArray[np.int64]:
    """The nearest centre of every row of the pool, a block at a time."""
    of = np.empty(len(place), dtype=np.int64)
    for start in range(0, len(place), _BLOCK):
        rows = place[start : start + _BLOCK]
        x = unit_rows(np.array(given.matrix[rows], dtype=np.float32))
        of[start : start + _BLOCK] = nearest(x, centres)[0]
    return of


def _names(subject: Subject, texts: Sequence[str], labels: NDArray[np.int64]) -> list[str]:
    """Each cluster by its number and the three words that most set it apart."""
    count = int(labels.max()) + 1
    if not subject.texts:
        return [f"cluster {at + 1}" for at in range(count)]
    inside: list[Counter[str]] = [Counter() for _ in range(count)]
    for text, label in zip(texts, labels.tolist(), strict=True):
        inside[label].update(set(_WORD.findall(text.lower())))
    everywhere = sum(inside, Counter[str]())
    sizes = np.bincount(labels, minlength=count)
    named = []
    for at, words in enumerate(inside):
        # How many more rows of the cluster have the word than would by chance.
        more = {w: n - everywhere[w] * sizes[at] / len(labels) for w, n in words.items()}
        best = sorted(more, key=lambda w: (-more[w], w))[:3]
        named.append(f"{at + 1}: {', '.join(best)}" if best else f"cluster {at + 1}")
    return named


def _how(name: str, held: float) -> str:
    return (
        f"Rows whose vectors ({name}) are alike lie near each other: of the {NEIGHBOURS} nearest "
        f"rows, {held:.0%} are among the {NEIGHBOURS} nearest here. Distances between groups mean "
        "little."
    )


def _drawn(total: int, kept: NDArray[np.bool_], some: NDArray[np.int64]) -> str:
    if len(some) == total:
        return f"All {total:,} rows of the pool."
    shown = int(kept[some].sum())
    return (
        f"{len(some):,} of {total:,} rows, drawn at random from either side: {shown:,} of "
        f"{int(kept.sum()):,} kept, {len(some) - shown:,} of {int((~kept).sum()):,} dropped."
    )
