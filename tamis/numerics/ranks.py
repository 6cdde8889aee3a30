"""Places and middles of values within cells, and cells that are large enough."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


def levels(codes: Sequence[Ints], n: int, least: int) -> Iterator[tuple[Ints, Mask]]:
    """The crossing of `codes`, each (n,) of whole numbers >= 0, coarsened until cells are large.

    Yields (cells, rows) from the full crossing down to one cell of all rows: `cells` (n,) numbers
    the cell of every row, `rows` (n,) tells whose cell is the largest crossing of leading codes
    that holds at least `least` rows. A row is true once; a row of a small cell is to be compared
    with all rows of the coarser one. O(n log n) a level.
    """
    crossed = [np.zeros(n, dtype=np.int64)]
    for code in codes:
        both = crossed[-1] * (int(code.max(initial=0)) + 1) + code
        crossed.append(np.unique(both, return_inverse=True)[1].reshape(n))
    left = np.ones(n, dtype=bool)
    for depth in range(len(codes), -1, -1):
        cells = crossed[depth]
        large = np.bincount(cells)[cells] >= least if n else left
        rows = left & (large if depth else True)
        yield cells, rows
        left &= ~rows


def midranks(values: F64, cells: Ints) -> tuple[F64, Ints]:
    """The rank of each value in its cell from 1, the mean of the ranks for equal ones, and the
    number of rows of the cell. `values` (n,) finite, `cells` (n,) from 0. O(n log n)."""
    if not len(values):
        return np.zeros(0), np.zeros(0, dtype=np.int64)
    order = np.lexsort((values, cells))
    cell, value = cells[order], values[order]
    fresh = np.concatenate([[True], (cell[1:] != cell[:-1]) | (value[1:] != value[:-1])])
    run = np.cumsum(fresh) - 1
    first = np.flatnonzero(fresh)
    after = np.append(first[1:], len(order))
    start = np.searchsorted(cell, cell)
    ranks = np.empty(len(values))
    ranks[order] = (first[run] + after[run] + 1) / 2 - start
    return ranks, np.bincount(cells)[cells]


def spearman(a: NDArray[Any], b: NDArray[Any]) -> float | None:
    """The correlation of ranks, ties at the mean of theirs; None where one side is constant.

    `a` and `b` (n,) finite. O(n log n)."""
    cell = np.zeros(len(a), dtype=np.int64)
    x, y = (midranks(np.asarray(v, dtype=np.float64), cell)[0] for v in (a, b))
    x, y = x - (len(x) + 1) / 2, y - (len(y) + 1) / 2
    size = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / size if size > 0 else None


def places(values: F64, within: Sequence[Ints], least: int) -> tuple[F64, Ints, int]:
    """The rank of each value in its cell from 1 and the number of rows of the cell, (n,) each,
    cells being those of `levels`; and how many rows stand in a coarser cell than the full
    crossing."""
    place, count = np.zeros(len(values)), np.ones(len(values), dtype=np.int64)
    coarser = 0
    for depth, (cells, mine) in enumerate(levels(within, len(values), least)):
        ranked, held = midranks(values, cells)
        place[mine], count[mine] = ranked[mine], held[mine]
        coarser += int(mine.sum()) if depth else 0
    return place, count, coarser


def shares(values: F64, within: Sequence[Ints], least: int) -> F64:
    """The share of the rows of its cell that lie at or below each value, (n,) in (0, 1]: see
    `places`."""
    place, count, _ = places(values, within, least)
    return place / count


def medians(values: F64, cells: Ints) -> F64:
    """The median of each row's cell, (n,); the mean of the two middle values where even."""
    if not len(values):
        return np.zeros(0)
    ordered = values[np.lexsort((values, cells))]
    sizes = np.bincount(cells)
    start = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    held = sizes > 0
    middle = np.full(len(sizes), np.nan)
    low, high = (start + (sizes - 1) // 2)[held], (start + sizes // 2)[held]
    # Halved first, so that the sum of two huge values is no infinity.
    middle[held] = ordered[low] / 2 + ordered[high] / 2
    return middle[cells]


def deciles(values: F64) -> Ints:
    """Codes 0..9 by the tenths of the values, equal ones together; those of at most ten distinct
    values are the values themselves. NaN gets a code of its own."""
    known = ~np.isnan(values)
    code = np.full(len(values), 10, dtype=np.int64)
    if not known.any():
        return code
    distinct, place = np.unique(values[known], return_inverse=True)
    if len(distinct) <= 10:
        code[known] = place
    else:
        cuts = np.quantile(values[known], np.arange(1, 10) / 10)
        code[known] = np.searchsorted(cuts, values[known], side="left")
    return code
