"""Writes the demo's files: a pool with planted defects, held-out rows, and text to learn from.

The same seed gives the same bytes. The pool comes in three shapes, one a file, with broken lines in
each. `skill`, `planted` and `twin` are columns for the final reckoning only: no recipe of the demo
names `planted` or `twin`, and `skill` is named only where the held-out figures are grouped.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from tamis.demo import defects
from tamis.demo.rows import Row, draw_row

SOURCES = ("alpaca", "chat", "sharegpt")
BASE_ROWS = 1800
DAMAGE = {"wrong_answer": 240, "truncated": 80, "noise": 80}
COPIES = {"near_duplicate": 120, "exact_duplicate": 80}


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many rows: `base` before copies are added (the pool has base + 200 rows)."""

    base: int = BASE_ROWS
    heldout: int = 200
    pretrain: int = 36_000


@dataclass(frozen=True, slots=True)
class DemoData:
    """Where the files lie and what was planted in them."""

    folder: Path
    pool: dict[str, Path]
    heldout: Path
    pretrain: Path
    planted: dict[str, int]
    rejects: int


def write(folder: Path, *, seed: int = 0, sizes: Sizes | None = None) -> DemoData:
    """Write all files into `folder` and say what is in them. Takes a second or two."""
    sizes = sizes or Sizes()
    folder.mkdir(parents=True, exist_ok=True)
    pool = make_pool(seed, sizes)
    rejects = 0
    paths = {}
    for source in SOURCES:
        lines = [_SHAPES[source](row) for row in pool[source]]
        broken = _broken_lines(source)
        rejects += len(broken)
        paths[source] = _write_lines(folder / f"{source}.jsonl", _mixed(lines, broken, seed))
    heldout = make_heldout(seed, sizes)
    learning = random.Random(f"{seed} pretrain")
    pretrain = [draw_row("pretrain", learning, seed) for _ in range(sizes.pretrain)]
    rows = [row for source in SOURCES for row in pool[source]]
    kinds = ("none", *DAMAGE, *COPIES)
    return DemoData(
        folder,
        paths,
        _write_lines(folder / "heldout.jsonl", [_as_messages(row) for row in heldout]),
        _write_lines(folder / "pretrain.jsonl", [_as_messages(row) for row in pretrain]),
        {kind: sum(row.planted == kind for row in rows) for kind in kinds},
        rejects,
    )


def make_heldout(seed: int, sizes: Sizes) -> list[Row]:
    """Clean rows of instances that stand nowhere else, no two alike."""
    rng = random.Random(f"{seed} heldout")
    return _distinct(sizes.heldout, lambda: draw_row("heldout", rng, seed))


def make_pool(seed: int, sizes: Sizes) -> dict[str, list[Row]]:
    """The pool's rows by source, in file order; copies come after their originals."""
    rng = random.Random(f"{seed} pool")
    rows = _distinct(sizes.base, lambda: draw_row("pool", rng, seed, skewed=True))
    share = sizes.base / BASE_ROWS
    free = _damage(rows, {k: round(n * share) for k, n in DAMAGE.items()}, rng)
    by_source: dict[str, list[Row]] = {source: [] for source in SOURCES}
    homes = [_home(row, rng) for row in rows]
    copies = _copies(rows, free, {k: round(n * share) for k, n in COPIES.items()}, rng)
    for at, row in enumerate(rows):
        by_source[homes[at]].append(row)
    for at, copy in copies:
        home = by_source[homes[at]]
        home.insert(rng.randint(home.index(rows[at]) + 1, len(home)), copy)
    return by_source


def _distinct(count: int, draw: Callable[[], Row]) -> list[Row]:
    rows: dict[str, Row] = {}
    while len(rows) < count:
        row = draw()
        rows.setdefault(row.asked(), row)
    return list(rows.values())


def _damage(rows: list[Row], counts: dict[str, int], rng: random.Random) -> list[int]:
    """Damage rows in place, each at most once; give the positions that stayed clean."""
    free = rng.sample(range(len(rows)), len(rows))
    for kind, count in counts.items():
        fit = [i for i in free if kind != "truncated" or defects.can_truncate(rows[i])]
        for at in fit[:count]:
            rows[at] = getattr(defects, kind)(rows[at], rng)
        free = [i for i in free if i not in set(fit[:count])]
    return free


def _copies(
    rows: list[Row], free: Sequence[int], counts: dict[str, int], rng: random.Random
) -> list[tuple[int, Row]]:
    """Copies of clean rows, as (position of the original, copy); marks their originals as twins."""
    copies = []
    left = list(free)
    for kind, count in counts.items():
        for _ in range(count):
            at = left.pop()
            rows[at] = replace(rows[at], twin=f"g{at:04d}")
            copies.append((at, getattr(defects, kind)(rows[at], rng)))
    return copies


def _home(row: Row, rng: random.Random) -> str:
    """The file whose shape can hold the row."""
    if row.messages[0]["role"] == "system" or row.tools:
        return "chat"
    if row.plain:
        return rng.choice(("alpaca", "alpaca", "chat", "sharegpt"))
    return rng.choice(("chat", "sharegpt"))


def _labels(row: Row) -> dict[str, str]:
    return {"skill": row.skill, "planted": row.planted, "twin": row.twin}


def _as_alpaca(row: Row) -> dict[str, Any]:
    return {
        "instruction": str(row.messages[0]["content"]).removesuffix(row.context).rstrip("\n"),
        "input": row.context,
        "output": row.answer,
        **_labels(row),
    }


def _as_messages(row: Row) -> dict[str, Any]:
    whole: dict[str, Any] = {"messages": list(row.messages), **_labels(row)}
    if row.tools:
        whole["tools"] = list(row.tools)
    return whole


def _as_sharegpt(row: Row) -> dict[str, Any]:
    names = {"user": "human", "assistant": "gpt"}
    turns = [{"from": names[m["role"]], "value": m["content"]} for m in row.messages]
    return {"conversations": turns, **_labels(row)}


_SHAPES = {"alpaca": _as_alpaca, "chat": _as_messages, "sharegpt": _as_sharegpt}


def _broken_lines(source: str) -> list[bytes]:
    """Lines that ingest has to refuse, each for a reason of its own, in the shape of the file."""
    question, no_answer = "What is the highest mountain?", ""
    rows: dict[str, list[dict[str, Any]]] = {
        "alpaca": [
            {"instruction": question, "input": "", "output": no_answer},
            {"instruction": question, "input": "", "output": "   "},
            {"prompt": question, "chosen": "Everest.", "rejected": "A hill."},
            {"title": "a row of nothing known"},
        ],
        "chat": [
            {"messages": [{"role": "user", "content": question}]},
            {"messages": []},
            {
                "messages": [
                    {"role": "user", "content": question},
                    {"role": "assistant", "content": ""},
                ]
            },
        ],
        "sharegpt": [
            {"conversations": [{"from": "human", "value": question}]},
            {"conversations": [{"from": "gpt", "value": no_answer}]},
        ],
    }
    lines = [orjson.dumps(row) for row in rows[source]]
    return [*lines, b'{"instruction": "cut in the midd', b"this line is not JSON"]


def _mixed(rows: Sequence[dict[str, Any]], broken: Sequence[bytes], seed: int) -> list[bytes]:
    """The rows in their order with the broken lines strewn among them."""
    rng = random.Random(f"{seed} broken")
    lines = [orjson.dumps(row) for row in rows]
    for line in broken:
        lines.insert(rng.randint(1, len(lines)), line)
    return lines


def _write_lines(path: Path, lines: Sequence[dict[str, Any] | bytes]) -> Path:
    encoded = [line if isinstance(line, bytes) else orjson.dumps(line) for line in lines]
    path.write_bytes(b"\n".join(encoded) + b"\n")
    return path
