"""The tables of docs/evidence.md, from the cells that are there."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from evidence import grid
from tamis.errors import DataError
from tamis.numerics.crossed import crossed_difference
from tamis.storage import files

PAGE = grid.HERE.parent / "docs" / "evidence.md"
Found = Mapping[int, Mapping[str, Any]]
_NAMES = {"exact_match": "exact match", "nll": "NLL, nats a token"}


def write(known: Mapping[str, grid.Setting]) -> None:
    """Put the table of every setting and size between its marks on the page, and nothing else."""
    text = PAGE.read_text(encoding="utf-8")
    for name in known:
        for size in ("small", "large"):
            text = replaced(text, f"{name} {size}", table(known[name], size))
    files.write_bytes(PAGE, text.encode())


def replaced(text: str, mark: str, content: str) -> str:
    """The text with what stands between the marks of a table replaced; unchanged without them."""
    begin, end = f"<!-- cells: {mark} -->\n", "<!-- end of cells -->"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    return pattern.sub(lambda _: begin + content + end, text)


def table(setting: grid.Setting, size: str) -> str:
    """The table of a setting in Markdown, the verdict on its aim, and which cells are missing."""
    found = {c: _cells(setting, c, size) for c in setting.contestants}
    if not any(found.values()):
        return "No cell of this size has been computed.\n"
    figure = _NAMES[setting.figure]
    known = {c: cells for c, cells in found.items() if cells}
    # Only some pools hold wrong answers.
    wrong = any(cell["kept"]["wrong"] for cells in known.values() for cell in cells.values())
    heads = ["contestant", "seeds", figure, f"minus {setting.start}", "of the way", "rows"]
    heads += [*(["wrong"] if wrong else []), "tokens seen", "processor s"]
    references = (found[setting.start], found[setting.goal])
    lines = [_row(heads), _row(["---"] * len(heads))]
    lines += [_row(_line(setting, c, cells, references, wrong)) for c, cells in known.items()]
    parts = ["\n".join(lines), _verdict(setting, found), _missing(setting, size)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _row(values: list[str]) -> str:
    return f"| {' | '.join(values)} |".replace("|  |", "| |").replace("|  |", "| |")


def _cells(setting: grid.Setting, contestant: str, size: str) -> Found:
    """The cells of a contestant that are there, by seed."""
    paths = {seed: grid.Cell(setting, contestant, seed, size).path for seed in setting.seeds}
    return {s: json.loads(p.read_text(encoding="utf-8")) for s, p in paths.items() if p.is_file()}


def _line(
    setting: grid.Setting, name: str, cells: Found, references: tuple[Found, Found], wrong: bool
) -> list[str]:
    values = [cell["figures"][setting.figure] for cell in cells.values()]
    spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    kept = [cell["kept"] for cell in cells.values()]
    share = _share(setting, cells, *references)
    out = [name, str(len(cells)), f"{np.mean(values):.3f}{spread}"]
    out.append("" if name == setting.start else _told(_difference(setting, cells, references[0])))
    out.append("" if share is None else _percent(share))
    out.append(f"{np.mean([k['rows'] for k in kept]):,.0f}")
    if wrong:
        out.append(_percent(float(np.mean([k["wrong"] / k["rows"] for k in kept]))))
    out.append(f"{np.mean([cell['tuned']['tokens_seen'] for cell in cells.values()]):,.0f}")
    out.append(f"{np.mean([cell['processor_seconds'] for cell in cells.values()]):.0f}")
    return out


def _difference(
    setting: grid.Setting, cells: Found, other: Found
) -> tuple[float, float, float] | None:
    """Figure minus that of the other on the seeds both have, with its 95 % interval over seeds and
    rows; better is positive. None without a common seed."""
    seeds = sorted(set(cells) & set(other))
    if not seeds:
        return None
    if len({c[s]["heldout"] for c in (cells, other) for s in seeds}) > 1:
        raise DataError(
            f"{setting.name}: cells were evaluated on different rows; compute them anew"
        )
    a, b = (_terms(setting.figure, [c[s] for s in seeds]) for c in (cells, other))
    point, low, high = crossed_difference(*a, *b, rng=np.random.default_rng(0))
    return (-point, -high, -low) if setting.figure == "nll" else (point, low, high)


def _terms(figure: str, cells: list[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Numerators and denominators (seeds, rows) of a figure."""
    if figure == "nll":
        sums = np.array([cell["nll_sum"] for cell in cells])
        return sums, np.array([cell["tokens"] for cell in cells], dtype=np.float64)
    right = np.array([[float(x) for x in cell["match"]] for cell in cells])
    return right, np.ones_like(right)


def _share(setting: grid.Setting, cells: Found, start: Found, goal: Found) -> float | None:
    """How much of the way from start to goal is covered, on the seeds that all three have; None
    where the two do not differ beyond the interval, since a share of nothing means nothing."""
    seeds = sorted(set(cells) & set(start) & set(goal))
    way = _difference(setting, {s: goal[s] for s in seeds}, start)
    if way is None or way[1] <= 0:
        return None
    mean = [np.mean([c[s]["figures"][setting.figure] for s in seeds]) for c in (cells, start, goal)]
    return float((mean[0] - mean[1]) / (mean[2] - mean[1]))


def _told(found: tuple[float, float, float] | None) -> str:
    return "" if found is None else "{:+.3f} ({:+.3f} to {:+.3f})".format(*found)


def _verdict(setting: grid.Setting, found: Mapping[str, Found]) -> str:
    """Whether the aim is met, and who is above the start beyond the interval."""
    start, goal = found[setting.start], found[setting.goal]
    others = {c: f for c, f in found.items() if f and c not in (setting.start, setting.goal)}
    way = _difference(setting, goal, start) if goal and start else None
    parts = []
    if way is not None and way[1] <= 0:
        parts.append("The references do not differ beyond the interval.")
    beyond = {c: _difference(setting, f, start) for c, f in others.items()}
    above = [c for c, d in beyond.items() if d is not None and d[1] > 0]
    below = [c for c, d in beyond.items() if d is not None and d[2] < 0]
    level = [c for c in beyond if c not in (*above, *below)]
    for names, what in ((above, "Above"), (level, "No difference shown from"), (below, "Below")):
        if names:
            parts.append(f"{what} {setting.start}: {', '.join(names)}.")
    if setting.every and others:
        sure = "Met" if len(above) == len(others) else "Not met"
        whole = all(len(cells) == len(setting.seeds) for cells in found.values())
        sure += "" if whole else " so far"
        parts.append(f"Aim: every method above {setting.start} beyond its interval. {sure}.")
    shares = {c: _share(setting, f, start, goal) for c, f in others.items()}
    known = {c: s for c, s in shares.items() if s is not None}
    if setting.aim is not None and known:
        best = max(known, key=lambda c: known[c])
        met = "Met" if known[best] >= setting.aim else "Not met"
        seeds = len(set(found[best]) & set(start) & set(goal))
        met += (
            ""
            if seeds == len(setting.seeds)
            else f" so far, on {seeds} of {len(setting.seeds)} seeds"
        )
        aim = f"covers {_percent(setting.aim)} of the way from {setting.start} to {setting.goal}"
        if setting.aim == 0:
            aim = f"is at least at {setting.start}"
        parts.append(f"Aim: the best {aim}. {met}: {best}, {_percent(known[best])} of the way.")
    return " ".join(parts)


def _percent(share: float) -> str:
    """A share in whole per cent, without a negative zero."""
    return f"{round(100 * share) + 0} %"


def _missing(setting: grid.Setting, size: str) -> str:
    """Which cells are not there, by contestant."""
    gone: dict[str, list[str]] = {contestant: [] for contestant in setting.contestants}
    for cell in grid.cells(setting, size):
        if not cell.path.is_file():
            gone[cell.contestant].append(str(cell.seed))
    names = [f"{contestant} ({', '.join(seeds)})" for contestant, seeds in gone.items() if seeds]
    return f"Cells that are missing, by seed: {', '.join(names)}." if names else ""
