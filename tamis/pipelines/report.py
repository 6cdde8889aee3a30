"""The report of a run, filled from the store's views: what was kept, what was not, what it gave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import orjson

from tamis import report as page
from tamis.errors import StoreError
from tamis.pipelines.context import Context
from tamis.pipelines.reporting import (
    boxes,
    counts,
    curves,
    embedding,
    figures,
    groups,
    methods,
    rows,
    told,
)
from tamis.pipelines.reporting.subject import TOKENS, Run, Subject, subject
from tamis.storage.catalogue import OpenStore, open_store

FOLDER = "reports"
# What makes a section that is not there.
_ABSENT = {
    "composition by language": "add a score with `scorer: lang`",
    "tokens": "name a model in `tune:` or add a score with `scorer: tokens`",
    "personal data": "add a score with `scorer: pii`",
    "contamination": "add a score with `scorer: contamination` and the benchmarks",
    "map and clusters": "add a score with `scorer: embed`",
    "duplicate groups": "add a score with `scorer: duplicates_minhash`",
    "labels": "add a score with `scorer: clusters`, `tags` or another that gives labels",
    "training": "add `tune:`",
    "difference to random rows": "add `tune:` and `evaluate:`",
    "refined answers": "add `refine:`",
    "what is new in this data": "run `tamis novelty`",
}


def report(ctx: Context, keys: Mapping[str, str]) -> Path:
    """Write the page of the run that has made `keys` into the store; returns its path."""
    store = OpenStore(ctx.store)
    runs = store.sql("select * from runs order by run_id desc").to_pylist()
    chosen = keys.get("chosen/selection")
    run = next((r for r in runs if r["selection"] == chosen), None)
    if run is None:
        raise StoreError(f"the store {ctx.store.root} has no log of this run")
    return _write(store, run, None, texts=True)


def write(
    store: str | Path,
    *,
    run_id: str | None = None,
    out: str | Path | None = None,
    texts: bool = True,
) -> Path:
    """Write the page of a run, the last one if none is named; without `texts` no text of the data,
    nor any name made of it, stands on the page. Raises `StoreError` if there is no such run."""
    opened = open_store(store)
    runs = opened.sql("select * from runs order by run_id desc").to_pylist()
    found = [run for run in runs if run_id is None or run["run_id"] == run_id]
    if not found:
        wanted = "no run yet" if run_id is None else f"no run {run_id!r}"
        raise StoreError(f"the store {store} has {wanted}; tamis sql 'from runs' lists them")
    return _write(opened, found[0], out, texts=texts)


def _write(store: OpenStore, run: Run, out: str | Path | None, *, texts: bool) -> Path:
    path = Path(out) if out else store.store.root / FOLDER / f"{run['run_id']}.html"
    return page.write(collect(store, run, texts=texts), path)


def collect(store: OpenStore, run: Run, *, texts: bool = True) -> page.ReportData:
    """Everything the page shows of a run (a row of the view `runs`). Reads each signal twice at
    most; the map costs what `numerics.layout` does."""
    seen = subject(store, run, texts=texts)
    composition, codes = counts.sources(seen), counts.reasons(seen)
    drawn, clusters = embedding.drawn(seen, embedding.vectors(seen))
    data = page.ReportData(
        recipe=seen.run["recipe"],
        run_id=seen.run["run_id"],
        started=f"{seen.run['started_utc']:%Y-%m-%d %H:%M} UTC",
        method=(seen.settings.get("select") or {}).get("method", ""),
        counts=counts.totals(seen, composition, codes),
        reasons=counts.in_words(codes),
        composition=composition,
        languages=counts.languages(seen),
        boxes=boxes.boxes(seen),
        rejected=counts.rejected(seen),
        histograms=rows.histograms(seen),
        sampled=rows.sampled(seen),
        compared=figures.compared(seen),
        differences=figures.differences(seen),
        gains=figures.gains(seen),
        methods=methods.methods(seen),
        map=drawn,
        duplicates=groups.duplicates(seen),
        coverage=[*clusters, *groups.labels(seen)],
        curves=curves.selection(seen),
        training=curves.trainings(seen),
        steps=curves.steps(seen),
        kept=rows.samples(seen, kept=True),
        dropped=rows.samples(seen, kept=False),
        refined=told.refined(seen),
        changed=told.changed(seen),
        news=told.news(seen),
        stages=[
            page.Stage(s["stage"], s["reused"], s["computed"], s["seconds"])
            for s in seen.run["stages"]
        ],
        lineage={name: k for s in seen.run["stages"] for name, k in s["keys"].items()},
        versions=seen.run["versions"],
        settings=orjson.dumps(seen.run["settings"], option=orjson.OPT_INDENT_2).decode(),
    )
    return replace(data, absent=_absent(seen, data))


def _absent(seen: Subject, data: page.ReportData) -> dict[str, str]:
    """The sections that are not on the page, and what would make them."""
    titles = [box.title for box in data.boxes if box.checked]
    there = {
        "composition by language": data.languages,
        "tokens": TOKENS in seen.signals,
        "personal data": "Personal data" in titles,
        "contamination": any(t.startswith("Contamination") for t in titles),
        "map and clusters": data.map,
        "duplicate groups": data.duplicates,
        "labels": any(c.title.startswith("Labels") for c in data.coverage),
        "training": data.training,
        "difference to random rows": data.differences or data.methods,
        "refined answers": data.refined,
        "what is new in this data": data.news,
    }
    return {name: _ABSENT[name] for name, found in there.items() if not found}
