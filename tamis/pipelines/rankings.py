"""Rows that people or judges ranked: what a scorer is trained on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from tamis.errors import DataError
from tamis.storage import readers
from tamis.storage.inputs import expand

LOWEST, HIGHEST = 1.0, 6.0
# The names under which files have them.
_RESPONSES = ("response", "output", "answer")
_GROUPS = ("group", "seed")


@dataclass(frozen=True, slots=True)
class Ranked:
    """One text and its score from 1 to 6; rows of a group are variants of one seed."""

    instruction: str
    response: str
    score: float
    group: str

    @property
    def digit(self) -> int:
        """The whole number nearest to the score, the upper of two."""
        return math.floor(self.score + 0.5)


def read(paths: Sequence[str]) -> list[Ranked]:
    """The rows of files with `instruction`, `response` (or `output`, `answer`), `group` (or
    `seed`; without one, rows of one instruction belong together) and `score` or `rank`.

    `score` is a number from 1 to 6. `rank` is the place in the group, 1 the best, and is spread
    evenly over 6 to 1. Raises `DataError` naming file and row for anything else.
    """
    found: list[tuple[str, str, str, float | None, float | None]] = []
    for file in expand(paths):
        for number, _, _, record in readers.read(file):
            where = f"{file.name}, row {number}"
            found.append(_row(_values(record, where), where))
    worst: dict[str, float] = {}
    for *_, group, _, rank in found:
        if rank is not None:
            worst[group] = max(worst.get(group, 1.0), rank)
    return [
        Ranked(
            instruction, response, _spread(rank, worst[group]) if score is None else score, group
        )
        for instruction, response, group, score, rank in found
    ]


def split(rows: Sequence[Ranked], percent: float, seed: int) -> tuple[list[Ranked], list[Ranked]]:
    """Rows to train on and rows held out, whole groups: `percent` of them, at least one and at most
    half. Which groups depends on their names and the seed alone."""
    groups = sorted({row.group for row in rows}, key=lambda g: (_hash(g, seed), g))
    if len(groups) < 2:
        raise DataError(
            f"the rankings hold {len(groups)} group: at least 2 are needed, one of them to test on"
        )
    count = min(max(1, math.ceil(len(groups) * percent / 100)), len(groups) // 2)
    held = set(groups[:count])
    train = [row for row in rows if row.group not in held]
    return train, [row for row in rows if row.group in held]


def _values(record: Any, where: str) -> Mapping[str, Any]:
    if isinstance(record, readers.Bad):
        raise DataError(f"{where}: {record.reason}")
    try:
        values = readers.parse(record) if isinstance(record, bytes) else record
    except readers.Malformed as error:
        raise DataError(f"{where}: {error}") from error
    if not isinstance(values, dict):
        raise DataError(f"{where}: expected an object with instruction and score")
    return values


def _row(values: Mapping[str, Any], where: str) -> tuple[str, str, str, float | None, float | None]:
    instruction = values.get("instruction")
    if not isinstance(instruction, str) or not instruction.strip():
        raise DataError(f"{where}: instruction is missing or empty")
    response = next((values[k] for k in _RESPONSES if values.get(k) is not None), "")
    group = next((values[k] for k in _GROUPS if values.get(k) is not None), instruction)
    score, rank = _number(values, "score", where), _number(values, "rank", where)
    if (score is None) == (rank is None):
        raise DataError(f"{where}: needs score (1 to 6) or rank (1 the best), exactly one of them")
    if score is not None and not LOWEST <= score <= HIGHEST:
        raise DataError(f"{where}: score is {score:g}, expected 1 to 6")
    if rank is not None and rank < 1:
        raise DataError(f"{where}: rank is {rank:g}, expected 1 or more, 1 the best")
    return instruction, str(response), str(group), score, rank


def _number(values: Mapping[str, Any], name: str, where: str) -> float | None:
    given = values.get(name)
    if given is None or given == "":
        return None
    try:
        number = float(given)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: {name} is {given!r}, expected a number") from error
    if not math.isfinite(number):
        raise DataError(f"{where}: {name} is {given!r}, expected a number")
    return number


def _spread(rank: float | None, worst: float) -> float:
    """A place among `worst` places as a score: 1 is 6, the last is 1, alone is the middle."""
    if rank is None or worst <= 1:
        return (LOWEST + HIGHEST) / 2
    return HIGHEST - (HIGHEST - LOWEST) * (rank - 1) / (worst - 1)


def _hash(group: str, seed: int) -> bytes:
    return blake2b(f"{seed}\0{group}".encode(), digest_size=16).digest()
