"""The outcome of a comparison for people: a table, sentences, and the same as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Document = Mapping[str, Any]


def rows(document: Document) -> list[dict[str, str]]:
    """One row a line of the table, by budget, the best first; then the full pool and the untuned
    model."""
    metric = document["metric"]
    made = [_row(line, metric) for line in ordered(document)]
    untuned = document["untuned"] or {}
    if metric in untuned:
        empty = dict.fromkeys(made[0], "")
        made.append({**empty, "method": "(untuned)", metric: f"{untuned[metric]:.4f}"})
    return made


def ordered(document: Document) -> list[dict[str, Any]]:
    """The lines by budget, the best first; the full pool last."""
    sign = -1 if document["better"] == "higher" else 1

    def place(line: Mapping[str, Any]) -> tuple[float, float]:
        size = line["budget"]["size"] if line["budget"] else float("inf")
        return size, sign * line["figures"][document["metric"]]["mean"]

    return sorted(document["lines"], key=place)


def sentences(document: Document) -> list[str]:
    """How the intervals are meant, then the winner of each budget, then the warnings."""
    count, metric = document["comparisons"], document["metric"]
    over = "seeds and evaluation rows" if document["heldout_rows"] else "seeds"
    told = [
        f"mean and standard deviation over {len(document['seeds'])} seeds; {metric}: "
        f"{document['better']} is better. Intervals are 95 % for all {count} differences together "
        f"(each at {document['level_each']:.2%}), paired, by resampling {over}."
    ]
    told += [winner(one, document) for one in document["winners"]]
    return told


def winner(found: Mapping[str, Any], document: Document) -> str:
    """Who won at a budget, named on one half of the rows and reported on the other."""
    name, metric = found["method"], document["metric"]
    where = f"at {budget(found['budget'])} {name} is best"
    if found["named_on"]:
        where += f" on one half of the evaluation rows ({found['named_on']:,})"
        where += f"; on the other half ({found['reported_on']:,}) its"
    else:
        where += "; its"
    told = f"{where} {metric} is {found['mean']:.4f}"
    for than in ("random", "second"):
        other = found[f"minus_{than}"]
        if other is not None:
            against = "random" if than == "random" else f"{found['second']}, the second"
            told += f"; against {against}: {difference(other)}, {_short(other)}"
    if found["minus_untuned"] is not None:
        other = found["minus_untuned"]
        told += f"; against the untuned model, {found['untuned']:.4f} on the same rows: "
        told += f"{difference(other)}, {_short(other)}"
    return told + "."


def warnings(document: Document) -> list[str]:
    """What spoils the comparison, one line each."""
    return [one["text"] for one in document["warnings"]]


def markdown(document: Document) -> str:
    """The whole outcome as Markdown."""
    metric, better = document["metric"], document["better"]
    parts = [f"## {metric}, {better} is better", _table(rows(document))]
    parts += [f"- {line}" for line in sentences(document)]
    if document["warnings"]:
        parts += ["### What spoils this comparison", *(f"- {w}" for w in warnings(document))]
    for one in document["overlap"]:
        parts += [f"### Overlap at {budget(one['budget'])} (Jaccard)", _table(overlap_rows(one))]
    return "\n".join(_spaced(parts)) + "\n"


def overlap_rows(found: Mapping[str, Any]) -> list[dict[str, str]]:
    """The overlap matrix of a budget, one row a method."""
    names = found["methods"]
    return [
        {"": name, **dict(zip(names, map(share, row), strict=True))}
        for name, row in zip(names, found["jaccard"], strict=True)
    ]


def budget(given: Mapping[str, Any] | None) -> str:
    """A budget in words."""
    return "all" if given is None else f"{given['size']:,} {given['unit']}"


def difference(found: Mapping[str, Any]) -> str:
    """A difference with its interval; bounds that are not known are left out."""
    if found["low"] is None:
        return f"{found['value']:+.4f} [not known]"
    return f"{found['value']:+.4f} [{found['low']:+.4f}, {found['high']:+.4f}]"


def share(value: float | None) -> str:
    """A share of 1, or nothing."""
    return "" if value is None else f"{value:.2f}"


def _row(line: Mapping[str, Any], metric: str) -> dict[str, str]:
    figure = line["figures"][metric]
    minus = figure.get("minus_random")
    return {
        "method": line["method"] + ("" if line["kind"] == "contestant" else f" ({line['kind']})"),
        "budget": budget(line["budget"]),
        metric: f"{figure['mean']:.4f}",
        "spread": "" if figure["spread"] is None else f"{figure['spread']:.4f}",
        "minus random": "" if minus is None else difference(minus),
        "verdict": "" if minus is None else minus["verdict"],
        **{name: _count(line[name]) for name in ("rows", "tokens", "steps")},
        **{f"{name} s": _seconds(value) for name, value in line["seconds"].items()},
    }


def _count(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:,.1f}"


def _short(found: Mapping[str, Any]) -> str:
    return str(found["verdict"]).split(" than ")[0]


def _table(lines: Sequence[Mapping[str, str]]) -> str:
    names = list(lines[0])
    rule = "|".join("---" if i == 0 else "---:" for i in range(len(names)))
    made = [f"| {' | '.join(names)} |", f"|{rule}|"]
    cells = (" | ".join(v.replace("|", "\\|") for v in line.values()) for line in lines)
    return "\n".join([*made, *(f"| {line} |" for line in cells)])


def _spaced(parts: Sequence[str]) -> list[str]:
    """A blank line between blocks, none between the items of a list."""
    made: list[str] = []
    for part in parts:
        if made and not (part.startswith("- ") and made[-1].startswith("- ")):
            made.append("")
        made.append(part)
    return made
