"""Compute the cells of the grid that are missing, and write the tables of docs/evidence.md.

    python -m evidence --data DATA --model base-17m

DATA holds the labelled Parquet files, the model is a folder or a hub id. A cell that is there is
never made again; several of these may run side by side. `--size large` takes the whole data and
the recipes for real base models on a GPU.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from evidence import grid, page
from tamis import console
from tamis.errors import TamisError


def main() -> None:
    """The command."""
    given = _arguments()
    known = grid.settings()
    chosen = [known[name] for name in given.only or known]
    if not given.page_only:
        place = grid.Place(given.data, given.model, given.work, given.size)
        wanted = [cell for setting in chosen for cell in grid.cells(setting, given.size)]
        _compute(wanted, place, given.cells)
    page.write(known)


def _compute(wanted: list[grid.Cell], place: grid.Place, most: int | None) -> None:
    made = 0
    while most is None or made < most:
        left = [cell for cell in wanted if not cell.path.is_file()]
        if not left:
            return
        # The first that no other process is at; its order is looked at anew each time.
        if any(grid.compute(cell, place) for cell in left):
            made += 1
        else:
            console.say(f"{len(left)} cells left, all in the hands of other processes")
            time.sleep(30)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m evidence", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of the labelled Parquet files")
    parser.add_argument("--model", help="folder or hub id of the base model; default the recipe's")
    parser.add_argument("--work", type=Path, default=Path("evidence-work"), help="stores, pools")
    parser.add_argument("--size", choices=["small", "large"], default="small")
    parser.add_argument("--only", nargs="*", choices=list(grid.settings()), help="settings")
    parser.add_argument("--cells", type=int, help="at most so many new ones")
    parser.add_argument("--page-only", action="store_true")
    given = parser.parse_args()
    if given.data is None and not given.page_only:
        parser.error("--data is needed to compute cells; --page-only needs none")
    return given


if __name__ == "__main__":
    try:
        main()
    except TamisError as error:
        raise SystemExit(f"error: {error}") from error
