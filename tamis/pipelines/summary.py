"""The end of a run in a few lines, or as one document."""

from __future__ import annotations

from typing import Any

from tamis.pipelines import mixture
from tamis.pipelines.run import Summary


def document(summary: Summary) -> dict[str, Any]:
    """The summary as JSON-like values."""
    return {
        "run": summary.run_id,
        "store": str(summary.store),
        "stages": [{**o.document(), "facts": dict(o.facts)} for o in summary.outcomes],
    }


def lines(summary: Summary) -> list[str]:
    """The summary for people: what was kept, what it gave, where the report lies."""
    out = [f"run {summary.run_id} in {summary.store}"]
    out += _ingested(summary)
    out += _refined(summary)
    out += _selected(summary)
    out += _tuned(summary)
    out += _evaluated(summary)
    report = summary.facts("report").get("path")
    return [*out, f"report: {report}"] if report else out


def _ingested(summary: Summary) -> list[str]:
    return [
        f"{name}: {f['accepted']:,} samples, {sum(f['rejected'].values()):,} rejected, "
        f"{f['duplicates']:,} exact duplicates"
        for name, f in summary.facts("ingest").items()
    ]


def _refined(summary: Summary) -> list[str]:
    return [
        f"{name}: {f['method']} changed {f['changed']:,} answers ("
        + ", ".join(f"{count:,} {action}" for action, count in f["actions"].items())
        + ")"
        for name, f in summary.facts("refine").items()
    ]


def _selected(summary: Summary) -> list[str]:
    out = []
    for subset, f in summary.facts("select").items():
        tokens = f", {f['total_tokens']:,} tokens" if "total_tokens" in f else ""
        out.append(f"{subset}: {f['method']} kept {f['kept']:,} of {f['pool']:,} rows{tokens}")
        for title, counts in (
            ("not eligible", f["dropped"]),
            ("licence not allowed", f.get("licences_refused", {})),
        ):
            if counts:
                told = ", ".join(f"{n:,} {name}" for name, n in counts.items())
                out.append(f"  {title}: {told}")
        out += [f"  {line}" for line in mixture.lines(f.get("mixture", []))]
    return out


def _tuned(summary: Summary) -> list[str]:
    out = []
    for subset, f in summary.facts("tune").items():
        if "trainable_share" in f:  # the bundled trainer's
            out.append(
                f"{subset}: {f['method']} trained {f['trainable_share']:.2%} of the weights in "
                f"{f['steps']:,} steps, NLL {f['first_nll']:.4f} -> {f['last_nll']:.4f}"
            )
        if online := f.get("online"):
            out.append(f"  {_chosen(online)}")
    return out


def _chosen(online: dict[str, Any]) -> str:
    kept, candidates = online["kept_rows"], online["candidate_rows"]
    if kept == candidates:
        effective = online.get("effective_rows")
        by = f", with the weight of {effective:,.0f}" if effective else ""
        return f"{online['method']} kept all {kept:,} rows{by}"
    return (
        f"{online['method']} chose {kept:,} of {candidates:,} rows to train on, "
        f"{online['kept_tokens']:,} of {online['candidate_tokens']:,} tokens"
    )


def _evaluated(summary: Summary) -> list[str]:
    facts = summary.facts("evaluate")
    out = []
    for name, result in facts.items():
        if name != "difference" and "nll" in result:
            match = result.get("exact_match")
            shown = f", exact match {_interval(match)}" if match is not None else ""
            out.append(f"{name}: held-out NLL {_interval(result['nll'])}{shown}")
    for metric, value in facts.get("difference", {}).items():
        out.append(f"chosen minus baseline, {metric}: {_interval(value)}, {verdict(value)}")
    return out


def _interval(value: dict[str, float]) -> str:
    return f"{value['value']:.4f} [{value['low']:.4f}, {value['high']:.4f}]"


def verdict(value: dict[str, float]) -> str:
    """Whether an interval of a difference shows one."""
    return "no difference shown" if value["low"] <= 0 <= value["high"] else "a difference is shown"
