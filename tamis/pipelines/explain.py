"""Why one sample was kept, dropped or rejected."""

from __future__ import annotations

from typing import Any

from tamis.errors import DataError
from tamis.storage.catalogue import OpenStore

# A sample's signals with their place among all samples of the pool.
_SIGNALS = """
select signal, value, place from (
  select id, signal, value,
         case when value is null then null
              else percent_rank() over (partition by signal, value is null order by value) end place
  from signals_long
) where id = $id order by signal
"""
_SELECTIONS = """
select s.selection, s.method, s.kept, s.rank, s.gain, s.reason, s.nearest_kept, s.similarity,
       s.cluster, (select count(*) from selections t
                   where t.selection = s.selection and t.kept) kept_rows
from selections s where s.id = $id
"""

_MEANING = {
    "selected": "it was selected",
    "held_out": "it is kept for evaluation",
    "no_trained_token": "no token of it would be trained on after the cut-off",
    "licence": "its licence is not among those allowed",
    "duplicate": "an exact duplicate of a sample with a lower id",
    "too_similar": "too similar to a kept sample",
    "redundant": "too similar to another sample of its cluster",
    "covered": "kept samples cover it",
    "represented": "a kept sample stands for it",
    "no_score": "it has no score",
    "bad_embedding": "its embedding is not finite",
    "zero_vector": "its embedding is zero, and such a sample is kept already",
    "not_listed": "it is not on the list",
    "group_has_no_share": "its group has no share of the budget",
    "too_hard": "it is above the range the method takes",
    "over_budget": "the budget was spent before its turn",
    "not_drawn": "the draw passed it by",
    "below_cut": "other rows have better values",
}


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
    sample["messages"] = [
        {"role": m["role"], "content": m["content"] or m["tool_calls"]} for m in sample["messages"]
    ]
    here = {"id": sample["id"]}
    return {
        "sample": sample,
        "signals": store.sql(_SIGNALS, here).to_pylist(),
        "selections": store.sql(_SELECTIONS, here).to_pylist(),
    }


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
    out += ["signals", *(_signal(s) for s in told["signals"])] if told["signals"] else []
    out += [line for s in told["selections"] for line in _selection(s)]
    if not told["selections"]:
        out.append("no selection has looked at it yet")
    return out


def _signal(signal: dict[str, Any]) -> str:
    if signal["value"] is None:
        return f"  {signal['signal']}: none"
    place = f"higher than {signal['place']:.0%} of the samples"
    return f"  {signal['signal']}: {signal['value']:.4g} ({place})"


def _selection(s: dict[str, Any]) -> list[str]:
    verdict = f"kept as number {s['rank'] + 1:,} of {s['kept_rows']:,}" if s["kept"] else "dropped"
    out = [f"{s['method']} ({s['selection'][:12]}): {verdict}; {meaning(s['reason'])}"]
    if s["gain"] is not None:
        out.append(f"  gain {s['gain']:.4g}")
    if s["nearest_kept"] is not None:
        near = f"  nearest kept sample {s['nearest_kept']}"
        out.append(near if s["similarity"] is None else f"{near}, similarity {s['similarity']:.3f}")
    if s["cluster"] is not None:
        out.append(f"  cluster {s['cluster']}")
    return out


def meaning(reason: str) -> str:
    """A reason code in words."""
    kind, _, column = reason.partition(":")
    if kind == "null":
        return f"it has no value of {column}"
    if kind == "filter":
        return f"the filter on {column} dropped it"
    return _MEANING.get(reason, reason.replace("_", " "))


def _short(text: str | None) -> str:
    flat = " ".join((text or "").split())
    return flat if len(flat) <= 160 else f"{flat[:157]}..."
