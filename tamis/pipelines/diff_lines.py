"""The difference of two releases for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tamis.pipelines.diff import ABSENT
from tamis.pipelines.reasons import meaning

_SHOWN = 3
_LONGEST = 120  # characters of a value; --json has all of it


def lines(told: Mapping[str, Any]) -> list[str]:
    """The document of `diff` in lines; of each group of rows the first few by rank."""
    before, after, pool = told["before"], told["after"], told["pool"]
    came, went = (sum(g["count"] for g in told[n]) for n in ("in", "out"))
    out = [
        f"{before['run']} ({before['recipe']}, {before['method']}) -> "
        f"{after['run']} ({after['recipe']}, {after['method']})",
        f"chosen: {_kept(before)} -> {_kept(after)}: {came:,} in, {went:,} out, "
        f"{told['stay']['rows']:,} stay ({told['stay']['other_rank']:,} at another rank)",
        f"pool: {before['pool']:,} -> {after['pool']:,} rows: {pool['new']:,} new, "
        f"{pool['gone']:,} gone"
        + (f", {pool['renamed']:,} under another id" if pool["renamed"] else ""),
    ]
    if before["selection"] == after["selection"]:
        out.append("both are the same selection")
    for name in ("in", "out"):
        for group in told[name]:
            out.append(f"{name}: {group['count']:,} {_why(group, name)}")
            out += [f"    {_row(row, group)}" for row in group["rows"][:_SHOWN]]
    out += _section("settings that differ", _settings(told))
    out += _section("signals computed anew", _signals(told))
    return out


def _kept(one: Mapping[str, Any]) -> str:
    tokens = f" ({one['total_tokens']:,} tokens)" if "total_tokens" in one else ""
    return f"{one['kept']:,} rows{tokens}"


def _why(group: Mapping[str, Any], name: str) -> str:
    """What the rows were or are, the side on which they are not chosen."""
    if name == "in":
        if group["was"] == ABSENT:
            return "new in the pool"
        return f"not chosen before ({group['was']}: {meaning(group['was'])})"
    if group["now"] == ABSENT:
        return "gone from the pool"
    return f"not chosen now ({group['now']}: {meaning(group['now'])})"


def _row(row: Mapping[str, Any], group: Mapping[str, Any]) -> str:
    out = f"{row['id'][:16]} from {row['source']}"
    if row["id_before"] is not None and row["id_before"] != row["id"]:
        out += f", before {row['id_before'][:16]}"
    out += f", number {_rank(row['rank']) or _rank(row['rank_before'])}"
    if "column" in group:
        values = " -> ".join(_shown(row.get(n)) for n in ("value_before", "value"))
        out += f", {group['column']} {values}"
    return out


def _rank(rank: int | None) -> str:
    return "" if rank is None or rank < 0 else f"{rank + 1:,}"


def _section(title: str, found: Iterator[str]) -> list[str]:
    body = [f"  {line}" for line in found]
    return [title, *body] if body else []


def _settings(told: Mapping[str, Any]) -> Iterator[str]:
    for one in told["settings"]:
        yield f"{one['setting']}: {_shown(one['before'])} -> {_shown(one['after'])}"


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    told = "nothing" if value is None else str(value)
    return told if len(told) <= _LONGEST else f"{told[: _LONGEST - 1]}…"


def _signals(told: Mapping[str, Any]) -> Iterator[str]:
    for one in told["signals"]:
        if one["change"] == "values":
            yield (
                f"{one['signal']}: {one['moved']:,} of {one['rows']:,} common rows moved by more "
                f"than {told['threshold']:g} standard deviations ({one['spread']:.3g}), the "
                f"largest by {one['largest']:.3g}"
            )
        else:
            yield f"{one['signal']}: {'only before' if one['change'] == 'gone' else 'only now'}"
