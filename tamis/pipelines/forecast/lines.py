"""A forecast for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def lines(told: Mapping[str, Any]) -> list[str]:
    """The document of a forecast in lines; `~` stands before what is an estimate."""
    out = [f"plan of {told['recipe']} in {told['store']} on {told['device']}; nothing was written"]
    for stage in told["stages"]:
        out.append(_stage(stage))
        out += [f"    {line}" for work in stage["work"] if (line := _work(work))]
    out += _all(told)
    out += [f"note: {note}" for note in told["notes"]]
    if told["leaves"]:
        out += [
            "leaves this machine, or comes from elsewhere:",
            *(f"  {x}" for x in told["leaves"]),
        ]
    else:
        out.append("leaves this machine: nothing")
    return out


def _stage(stage: Mapping[str, Any]) -> str:
    about = "" if stage["exact"] else "~"
    out = f"{stage['stage']:<9} reuses {about}{stage['reused']:,}, computes {about}"
    return f"{out}{stage['computed']:,}{_read(stage, about)}"


def _work(work: Mapping[str, Any]) -> str:
    """One piece of work; empty when nothing is to do."""
    if not (work["computed"] or work["tunings"] or (work["rows"] and work["how"])):
        return ""
    about = "" if work["exact"] else "~"
    out = f"{work['what']}: {about}{work['rows']:,} rows{_read(work, about)}"
    if work["steps"]:
        out += f" in {about}{work['steps']:,} steps"
    if work["seconds"] is not None and work["seconds"] > 0:
        out += f"; {duration(work['seconds'])}"
    if work["bytes"]:
        out += f", {size(work['bytes'])}"
    return f"{out} ({work['how']})" if work["how"] else out


def _read(of: Mapping[str, Any], about: str) -> str:
    read = of["read"]
    if not read["passes"]:
        return ""
    out = f", {about}{read['passes']:,} passes of {about}{read['tokens']:,} tokens"
    return f"{out}, at most {read['written']:,} written" if read["written"] else out


def _all(told: Mapping[str, Any]) -> list[str]:
    total = told["all"]
    about = "" if total["exact"] else "~"
    out = [
        f"in all: {duration(total['seconds'])}, {about}{total['tunings']:,} tunings, "
        f"{size(total['bytes'])} on disk{_read(total, about)}"
    ]
    if told["not_timed"]:
        out.append(f"  without {', '.join(dict.fromkeys(told['not_timed']))}, which were not timed")
    return out


def duration(seconds: float) -> str:
    """About how long, in the unit one thinks in."""
    if seconds < 90:
        return f"about {seconds:.0f} s"
    if seconds < 90 * 60:
        return f"about {seconds / 60:.0f} min"
    return f"about {seconds / 3600:.1f} h"


def size(count: float) -> str:
    """Bytes in the unit one thinks in."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
