"""Why one sample was kept, dropped or rejected."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tamis.errors import DataError
from tamis.pipelines import deciding
from tamis.pipelines.deciding import turns
from tamis.storage.catalogue import OpenStore

# A sample's numbers with their place among all samples of the pool that have one.
_SIGNALS = """
select l.signal, l.value,
       case when l.value is null or isnan(l.value) then null
            else count(*) filter (o.value < l.value) / greatest(count(o.value) - 1, 1) end place,
       min(o.value) = max(o.value) as constant
from (select signal, value from signals_long where id = $id) l
left join (select signal, value from signals_long where not isnan(value)) o using (signal)
group by 1, 2 order by 1
"""
_LABELS = """
select signal, list(label order by label) labels from labels where id = $id group by 1 order by 1
"""
_GROUPS = """
select d.signal, d.number, d.representative, d.similarity, d.size,
       (select min(o.id) from duplicates o where o.signal = d.signal and o.number = d.number
        and o.representative) as first
from duplicates d where d.id = $id order by 1
"""
_SELECTIONS = """
select s.selection, s.method, s.kept, s.rank, s.gain, s.reason, s.nearest_kept, s.similarity,
       s.cluster, (select count(*) from selections t
                   where t.selection = s.selection and t.kept) kept_rows
from selections s where s.id = $id
"""
_LAST = """
select run_id, selection, baseline from runs where selection is not null
order by run_id desc limit 1
"""


def document(store: OpenStore, name: str) -> dict[str, Any]:
    """All there is to tell of the sample whose id begins with `name`, or of rejected `file:line`.

    Raises `DataError` when nothing or more than one sample matches.
    """
    if ":" in name:
        return _rejected(store, name)
    found = store.sql(
        "select id, content_key, source, origin, duplicate, messages from samples "
        "where starts_with(id, $id) order by id limit 3",
        {"id": name},
    ).to_pylist()
    if not found:
        raise DataError(f"no sample has an id that begins with {name!r}; tamis sql lists them")
    if len(found) > 1:
        raise DataError(f"{name!r} is the beginning of several ids; give more of it")
    sample = found[0]
    sample["messages"] = turns(sample["messages"])
    here = {"id": sample["id"]}
    shown, others = _selections(store, sample)
    return {
        "sample": sample,
        "signals": store.sql(_SIGNALS, here).to_pylist(),
        "labels": store.sql(_LABELS, here).to_pylist(),
        "duplicates": store.sql(_GROUPS, here).to_pylist(),
        "selections": shown,
        "others": others,
    }


def _selections(
    store: OpenStore, sample: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What the last run did with the row, with the rule and the nearest kept row; and the verdicts
    of all other selections in the store."""
    rows = store.sql(_SELECTIONS, {"id": sample["id"]}).to_pylist()
    last = store.sql(_LAST).to_pylist()
    latest = {store.store.latest("selections").get("chosen")}
    wanted = {last[0]["selection"], last[0]["baseline"]} if last else latest
    wanted = wanted & {r["selection"] for r in rows} or {r["selection"] for r in rows[:1]}
    shown = [r for r in rows if r["selection"] in wanted]
    for row in shown:
        artifact = store.store.get("selections", row["selection"])
        known = {**row, "id": sample["id"], "content_key": sample["content_key"]}
        row["rule"] = deciding.rule(store, artifact, known)
        row["nearest"] = deciding.nearest(store, artifact, known)
    chosen = last[0]["selection"] if last else None
    shown.sort(key=lambda r: r["selection"] != chosen)
    return shown, [r for r in rows if r["selection"] not in wanted]


def _rejected(store: OpenStore, name: str) -> dict[str, Any]:
    file, _, line = name.rpartition(":")
    rows = store.sql(
        "select source, file, line, reason, text from rejected where file = $file "
        "and line = try_cast($line as bigint)",
        {"file": file, "line": line},
    ).to_pylist()
    if not rows:
        raise DataError(f"no rejected row is called {name}; tamis sql 'from rejected' lists them")
    return {"rejected": rows}


def lines(told: dict[str, Any]) -> list[str]:
    """The document for people."""
    if "rejected" in told:
        return [
            f"{r['file']}:{r['line']} was rejected at ingest: {r['reason']}\n  {r['text']}"
            for r in told["rejected"]
        ]
    sample = told["sample"]
    out = [f"{sample['id']}  from {sample['source']} ({sample['origin']})"]
    if sample["duplicate"]:
        out.append("  an earlier row of its source has the same content")
    out += [f"  {m['role']}: {_short(m['content'])}" for m in sample["messages"]]
    out += _duplicates(told)
    first = {c["signal"] for s in told["selections"] for c in s["rule"]["compared"]}
    out += [line for s in told["selections"] for line in _selection(s)]
    if told["others"]:
        kept = sum(s["kept"] for s in told["others"])
        out.append(f"of {len(told['others']):,} other selections in the store {kept:,} keep it")
    if not told["selections"]:
        out.append("no selection has looked at it yet")
    if told["signals"]:
        out.append(
            "signals, by their place in the pool" + ("; * the selection read" if first else "")
        )
        ordered = sorted(told["signals"], key=lambda s: s["signal"] not in first)
        out += [_signal(s, "*" if s["signal"] in first else " ") for s in ordered]
    out += [f"    {row['signal']}: {', '.join(row['labels'])}" for row in told["labels"]]
    return out


def _duplicates(told: dict[str, Any]) -> list[str]:
    out = []
    for group in told["duplicates"]:
        if group["size"] > 1:
            role = "stands for" if group["representative"] else f"{group['first']} stands for"
            out.append(f"  {group['signal']}: in a group of {group['size']:,}; {role} it")
    return out


def _signal(signal: dict[str, Any], mark: str) -> str:
    name = f"  {mark} {signal['signal']}"
    if signal["place"] is None:
        return f"{name}: none"
    if signal["constant"]:
        return f"{name}: {signal['value']:.4g} (all samples have this)"
    return f"{name}: {signal['value']:.4g} (above {signal['place']:.0%} of the samples)"


def _selection(s: dict[str, Any]) -> list[str]:
    verdict = f"kept as number {s['rank'] + 1:,} of {s['kept_rows']:,}" if s["kept"] else "dropped"
    out = [f"{s['method']} ({s['selection'][:12]}): {verdict}; {s['rule']['sentence']}"]
    out.append(f"  by {s['rule']['choice']}")
    for one in s["rule"]["compared"]:
        kept, value = one["kept"], one["value"]
        here = "none" if value is None else f"{value:.4g}"
        out.append(
            f"  {one['signal']}: {here}; of the kept rows {kept['p5']:.4g} to {kept['p95']:.4g}, "
            f"median {kept['median']:.4g}"
        )
    if s["gain"] is not None and s["kept"]:
        out.append(f"  gain {s['gain']:.4g}")
    if s["cluster"] is not None:
        out.append(f"  cluster {s['cluster']}")
    if s["nearest"] is not None:
        out += _nearest(s["nearest"])
    return out


def _nearest(near: dict[str, Any]) -> list[str]:
    like = "" if near["similarity"] is None else f", similarity {near['similarity']:.3f}"
    by = "" if near["by"] == "method" else f" by {near['by']}"
    out = [f"  nearest kept sample {near['id']} from {near['source']}{like}{by}"]
    return out + [f"    {m['role']}: {_short(m['content'])}" for m in near["messages"]]


def _short(text: str | None) -> str:
    flat = " ".join((text or "").split())
    return flat if len(flat) <= 160 else f"{flat[:157]}..."
