"""The report of a run, filled from the store's views: what was kept, what was not, what it gave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from tamis import report as page
from tamis.errors import StoreError
from tamis.pipelines.context import Context
from tamis.pipelines.explain import meaning
from tamis.pipelines.histogram import histogram
from tamis.storage import files
from tamis.storage.catalogue import OpenStore, open_store

FOLDER = "reports"
TOKENS = "tokens.total"
SHOWN_ROWS = 20
FIGURES = ("nll", "exact_match", "token_accuracy")
SHOWN_REJECTS = 5
SHOWN_VALUES = 6
SHOWN_NEAREST = 2
# What the subsets of a run are called on the page.
NAMES = {"untuned": "untuned model", "chosen": "selected rows", "baseline": "random rows"}

Run = Mapping[str, Any]

_COMPOSITION = """
select p.source, count(*) rows_before, count(*) filter (s.kept) rows_after,
       sum(t.value)::bigint tokens_before,
       coalesce(sum(t.value * coalesce(s.repeat, 1)) filter (s.kept), 0)::bigint tokens_after
from selections s join samples p using (id)
left join (select id, value from signals_long where signal = $tokens) t using (id)
where s.selection = $key group by 1 order by 1
"""
_UNSELECTED = """
select p.source, count(*) rows_before, 0 rows_after, sum(t.value)::bigint tokens_before,
       0 tokens_after
from samples p left join (select id, value from signals_long where signal = $tokens) t using (id)
where $key is null group by 1 order by 1
"""
# md5 draws at random, but the same rows each time.
_ROWS = """
select s.id, p.source, s.reason, p.messages from selections s join samples p using (id)
where s.selection = $key and s.kept = $kept and s.reason != 'held_out' order by md5(s.id) limit $n
"""
_CHANGED = """
select id, action, before, after, reason, confidences from refinements
where before is distinct from after and after is not null order by md5(id) limit $n
"""
_REJECTED = """
select reason, sum(count(*)) over (partition by reason)::bigint total,
       list({place: file || ':' || line, text: text} order by file, line)[:$n] examples
from rejected group by reason order by total desc, reason
"""


def report(ctx: Context, keys: Mapping[str, str]) -> Path:
    """Write the page of the run that has made `keys` into the store; returns its path."""
    store = OpenStore(ctx.store)
    runs = store.sql("select * from runs order by run_id desc").to_pylist()
    chosen = keys.get("chosen/selection")
    run = next((r for r in runs if r["selection"] == chosen), None)
    if run is None:
        raise StoreError(f"the store {ctx.store.root} has no log of this run")
    return _write(store, run, None)


def write(store: str | Path, *, run_id: str | None = None, out: str | Path | None = None) -> Path:
    """Write the page of a run, the last one if none is named. Raises `StoreError` if there is
    none."""
    opened = open_store(store)
    runs = opened.sql("select * from runs order by run_id desc").to_pylist()
    found = [run for run in runs if run_id is None or run["run_id"] == run_id]
    if not found:
        wanted = "no run yet" if run_id is None else f"no run {run_id!r}"
        raise StoreError(f"the store {store} has {wanted}; tamis sql 'from runs' lists them")
    return _write(opened, found[0], out)


def _write(store: OpenStore, run: Run, out: str | Path | None) -> Path:
    path = Path(out) if out else store.store.root / FOLDER / f"{run['run_id']}.html"
    return page.write(collect(store, run), path)


def collect(store: OpenStore, run: Run) -> page.ReportData:
    """Everything the page shows of a run (a row of the view `runs`). Reads each signal once."""
    key = run["selection"]
    run = {**run, **{n: _json(run[n]) for n in ("stages", "metrics", "settings", "versions")}}
    signals = _signals(store)
    composition = _composition(store, key, counted=TOKENS in signals)
    reasons = _reasons(store, key)
    return page.ReportData(
        recipe=run["recipe"],
        run_id=run["run_id"],
        started=f"{run['started_utc']:%Y-%m-%d %H:%M} UTC",
        method=((run["settings"] or {}).get("select") or {}).get("method", ""),
        counts=_counts(store, composition, reasons),
        reasons=_in_words(reasons),
        composition=composition,
        rejected=_rejected(store),
        histograms=[_histogram(store, key, name) for name in _ordered(run, signals)] if key else [],
        compared=_compared(run, store),
        differences=_differences(run),
        kept=_rows(store, run, signals, kept=True),
        dropped=_rows(store, run, signals, kept=False),
        refined=_refined(store),
        changed=_changed(store),
        news=_news(store, run),
        stages=[
            page.Stage(s["stage"], s["reused"], s["computed"], s["seconds"]) for s in run["stages"]
        ],
        lineage={name: k for s in run["stages"] for name, k in s["keys"].items()},
        versions=run["versions"],
        settings=orjson.dumps(run["settings"], option=orjson.OPT_INDENT_2).decode(),
    )


def _json(value: Any) -> Any:
    return orjson.loads(value) if isinstance(value, str) else value


def _signals(store: OpenStore) -> list[str]:
    table = store.sql("select distinct signal from signals_long order by signal")
    return [str(name) for name in table.column("signal").to_pylist()]


def _composition(store: OpenStore, key: str | None, *, counted: bool) -> list[page.Composition]:
    query = _COMPOSITION if key else _UNSELECTED
    rows = store.sql(query, {"key": key, "tokens": TOKENS}).to_pylist()
    return [
        page.Composition(
            r["source"],
            r["rows_before"],
            r["rows_after"],
            (r["tokens_before"] or 0) if counted else None,
            r["tokens_after"] if counted else None,
        )
        for r in rows
    ]


def _reasons(store: OpenStore, key: str | None) -> dict[str, int]:
    rows = store.sql(
        "select reason, count(*) n from selections where selection = $key "
        "group by 1 order by n desc, reason",
        {"key": key},
    ).to_pylist()
    return {r["reason"]: r["n"] for r in rows}


def _in_words(reasons: Mapping[str, int]) -> dict[str, int]:
    told: dict[str, int] = {}
    for reason, count in reasons.items():
        told[meaning(reason)] = told.get(meaning(reason), 0) + count
    return told


def _counts(
    store: OpenStore, composition: Sequence[page.Composition], reasons: Mapping[str, int]
) -> dict[str, int]:
    sizes = store.sql(
        "select (select count(*) from rejected) rejected, "
        "(select count(*) filter (duplicate) from samples) duplicates"
    ).to_pylist()[0]
    counts = {
        "ingested": sum(part.rows_before for part in composition),
        "rejected": sizes["rejected"],
        "exact duplicates": sizes["duplicates"],
    }
    if reasons:
        counts["filtered out"] = sum(
            n for reason, n in reasons.items() if reason.startswith(("filter:", "null:"))
        )
        counts["selected"] = sum(part.rows_after for part in composition)
        if all(part.tokens_after is not None for part in composition):
            counts["tokens selected"] = sum(part.tokens_after or 0 for part in composition)
    return counts


def _rejected(store: OpenStore) -> list[page.Rejected]:
    return [
        page.Rejected(
            r["reason"].replace("_", " "),
            r["total"],
            [(e["place"] or "", e["text"] or "") for e in r["examples"]],
        )
        for r in store.sql(_REJECTED, {"n": SHOWN_REJECTS}).to_pylist()
    ]


def _histogram(store: OpenStore, key: str, signal: str) -> page.Histogram:
    table = store.sql(
        "select s.kept, l.value from selections s join signals_long l using (id) "
        "where s.selection = $key and l.signal = $signal",
        {"key": key, "signal": signal},
    )
    return histogram(signal, _floats(table, "value"), table.column("kept").to_numpy())


def _refined(store: OpenStore) -> dict[str, int]:
    rows = store.sql(
        "select method || ': ' || action done, count(*) n from refinements "
        "group by 1 order by n desc, done"
    ).to_pylist()
    return {r["done"].replace("_", " "): r["n"] for r in rows}


def _changed(store: OpenStore) -> list[page.Refined]:
    rows = store.sql(_CHANGED, {"n": SHOWN_ROWS}).to_pylist()
    return [
        page.Refined(
            r["id"],
            r["action"].replace("_", " "),
            r["before"],
            r["after"],
            ", ".join(filter(None, (r["reason"], r["confidences"]))).replace("_", " "),
        )
        for r in rows
    ]


def _news(store: OpenStore, run: Run) -> page.News | None:
    """The newest account of what is new in samples of this run, as `tamis novelty` leaves it."""
    keys = {key for stage in run["stages"] for key in stage["keys"].values()}
    made = [
        a for a in store.store.all("novelty") if set(a.seal["inputs"]["samples"].values()) & keys
    ]
    if not made:
        return None
    told = files.read_json(made[-1].path / "novelty.json")
    how = told["settings"]
    mode = "while the base learnt them" if how["iterative"] else "with the base as it is"
    return page.News(
        f"Texts that {Path(how['tuned']).name} likes more than {Path(how['base']).name}, drawn "
        f"{mode} (seed {how['seed']}). Models wrote them; they may repeat private training text.",
        len(told["texts"]),
        [
            page.Theme(
                theme["size"],
                theme["score"],
                theme["examples"],
                [(r["id"], r["text"], r["similarity"]) for r in theme["rows"][:SHOWN_NEAREST]],
                theme["supported"],
            )
            for theme in told["themes"]
        ],
        told["coverage"][-1] if told["coverage"] else None,
        told["warnings"],
    )


def _floats(table: pa.Table, name: str) -> np.ndarray:
    values: np.ndarray = table.column(name).to_numpy(zero_copy_only=False)
    return values.astype(np.float64)


def _compared(run: Run, store: OpenStore) -> list[page.Compared]:
    """The untuned model first, then the subsets, with what each cost."""
    metrics = run["metrics"] or {}
    selections = {"chosen": run["selection"], "baseline": run["baseline"]}
    lines = []
    for name, title in NAMES.items():
        figures = _intervals(metrics.get(name) or {})
        if figures:
            facts = _facts(store, selections.get(name))
            rows, tokens = facts.get("kept"), facts.get("total_tokens")
            lines.append(page.Compared(title, rows, tokens, figures))
    return lines


def _facts(store: OpenStore, key: str | None) -> dict[str, Any]:
    found = store.store.find("selections", key) if key else None
    return found.facts if found else {}


def _intervals(figures: Mapping[str, Any]) -> dict[str, page.Interval]:
    """The figures that are intervals, the decisive ones first; how often an answer came to its end
    is no measure of quality and is left out."""
    names = [n for n in FIGURES if n in figures] + [n for n in figures if n not in FIGURES]
    return {
        name: page.Interval(figures[name]["value"], figures[name]["low"], figures[name]["high"])
        for name in names
        if name != "stopped"
        and isinstance(figures[name], dict)
        and figures[name].keys() >= {"value", "low", "high"}
    }


def _differences(run: Run) -> dict[str, page.Interval]:
    return _intervals((run["metrics"] or {}).get("difference") or {})


def _rows(store: OpenStore, run: Run, signals: Sequence[str], *, kept: bool) -> list[page.Sample]:
    wanted = {"key": run["selection"], "kept": kept, "n": SHOWN_ROWS}
    rows = store.sql(_ROWS, wanted).to_pylist()
    values = _values(store, [r["id"] for r in rows], _used(run, signals))
    return [
        page.Sample(
            r["id"],
            r["source"],
            [(m["role"], m["content"] or m["tool_calls"] or "") for m in r["messages"]],
            meaning(r["reason"]),
            values.get(r["id"], {}),
        )
        for r in rows
    ]


def _used(run: Run, signals: Sequence[str]) -> list[str]:
    """The signals that the recipe's filters and selection name."""
    settings = run["settings"] or {}
    named = {f["column"] for f in settings.get("filters") or []}
    for option in ((settings.get("select") or {}).get("options") or {}).values():
        named |= {str(x) for x in (option if isinstance(option, list) else [option])}
    return [name for name in signals if name in named][:SHOWN_VALUES]


def _ordered(run: Run, signals: Sequence[str]) -> list[str]:
    """What the decision was made by stands first."""
    used = _used(run, signals)
    return [*used, *(name for name in signals if name not in used)]


def _values(
    store: OpenStore, ids: Sequence[str], signals: Sequence[str]
) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    rows = store.sql(
        "select id, signal, value from signals_long where id in $ids and signal in $signals "
        "and isfinite(value) order by signal",
        {"ids": list(ids), "signals": list(signals)},
    )
    for row in rows.to_pylist():
        found.setdefault(row["id"], {})[row["signal"]] = row["value"]
    return found
