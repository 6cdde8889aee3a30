"""The tables of docs/evidence.md, from the cells that are there."""

from __future__ import annotations

from collections.abc import Mapping

from evidence import grid


def write(known: Mapping[str, grid.Setting]) -> None:
    """x"""
