"""A budget that was split over groups: what was asked of each, and what was achieved."""

from __future__ import annotations

from typing import Any

import numpy as np

from tamis.selectors import Selection

# A terminal shows the largest groups; the seal and --json hold all of them.
SHOWN = 20


def groups(picked: Selection, unit: str, tokens: np.ndarray | None) -> list[dict[str, Any]]:
    """One entry a group, in the order of their names; none when the budget was not split.

    `asked` and `achieved` are in the `unit` of the budget (rows or tokens) and count a row as often
    as it is shown; `asked_percent` and `achieved_percent` are shares of all groups. `rows` are
    distinct, `tokens` (n,) those of each row of the method's pool, null when nobody counted them.
    """
    if not picked.groups:
        return []
    names = picked.groups["name"].tolist()
    group = picked.rows["cluster"][picked.index]
    times = shown(picked)
    rows = np.bincount(group, minlength=len(names))
    table = {"group": names, "unit": [unit] * len(names)}
    for word, values in (("asked", picked.groups["asked"]), ("achieved", picked.groups["spent"])):
        percent = 100 * values / max(1, int(values.sum()))
        table |= {word: values.tolist(), f"{word}_percent": percent.tolist()}
    table["rows"] = rows.tolist()
    table["rows_shown"] = np.bincount(group, times, len(names)).astype(int).tolist()
    if tokens is not None:
        cost = times * np.nan_to_num(tokens[picked.index])
        table["tokens"] = np.bincount(group, cost, len(names)).astype(int).tolist()
    return [dict(zip(table, entry, strict=True)) for entry in zip(*table.values(), strict=True)]


def shown(picked: Selection) -> np.ndarray:
    """How often each pick is shown in an epoch (k,)."""
    if "repeat" not in picked.rows:
        return np.ones(len(picked.index), dtype=np.int64)
    return picked.rows["repeat"][picked.index]


def lines(found: list[dict[str, Any]]) -> list[str]:
    """The largest groups as an aligned table for people."""
    if not found:
        return []
    largest = sorted(found, key=lambda g: -max(g["asked"], g["achieved"]))[:SHOWN]
    cells = [_HEAD, *map(_cells, largest)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    out = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in cells
    ]
    more = len(found) - len(largest)
    return out + ([f"and {more:,} smaller groups"] if more else [])


_HEAD = ("group", "asked", "", "achieved", "", "rows", "tokens")


def _cells(group: dict[str, Any]) -> tuple[str, ...]:
    rows = f"{group['rows']:,}"
    if group["rows_shown"] != group["rows"]:
        rows += f" ({group['rows_shown']:,} shown)"
    return (
        group["group"],
        f"{group['asked']:,} {group['unit']}",
        f"{group['asked_percent']:.1f} %",
        f"{group['achieved']:,} {group['unit']}",
        f"{group['achieved_percent']:.1f} %",
        rows,
        f"{group['tokens']:,}" if "tokens" in group else "",
    )
