"""Keep a row unless it is too similar to one kept before: the filter of deita and its kin."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tamis.numerics.blocked import CELLS, rows_per_block, slack, unit64

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]


# Share of pairs above which looking at each costs more than one dense product of all.
_FEW = 0.01


@dataclass(frozen=True, slots=True)
class Filtered:
    """Positions kept, in order; for each examined position that fell the kept one it is nearest to.

    `nearest` is -1 and `similarity` NaN for the kept. Positions from `len(nearest)` on were not
    examined: the limit had been reached.
    """

    kept: Rows
    nearest: Rows
    similarity: F32


def greedy_filter(
    x: F32, order: Rows, tau: float, limit: int, *, block: int | None = None
) -> Filtered:
    """Scan rows of `x` in `order`; keep one unless its cosine with a kept row exceeds `tau`.

    A cosine of exactly `tau` is kept. Zero rows have cosine 0 with everything. Stops at `limit`
    kept rows. All positions in the result count along `order`.

    Exact, and the kept rows do not depend on the block size or the number of threads: every
    decision within rounding of `tau` is made in float64. Time at most O(examined x kept x d),
    a fraction of it where few pairs come near `tau` (see `_Sketch`); memory the kept rows and
    one block.
    """
    size = block or 256
    scan = _Scan(x, order, tau, min(len(order), limit))
    for start in range(0, len(order), size):
        if scan.count >= limit:
            break
        scan.block(start, min(start + size, len(order)))
    return scan.result()


def blockwise_filter(x: F32, order: Rows, tau: float, limit: int, size: int) -> Rows:
    """The official batch rule: rows of one block reject each other even when rejected themselves.

    After the first row, blocks of `size` rows are taken; a row falls to any kept row and to any
    earlier row of its block. The limit is applied after each block. Stricter than the rule of
    one row at a time, and dependent on `size` by design.
    """
    if limit <= 0 or len(order) == 0:
        return np.empty(0, dtype=np.int64)
    unit = unit64(x[order])
    kept = [0]
    for start in range(1, len(order), size):
        if len(kept) >= limit:
            break
        part = unit[start : start + size]
        fallen = (part @ unit[kept].T > tau).any(axis=1)
        fallen |= np.tril(part @ part.T > tau, -1).any(axis=1)
        kept.extend((start + np.flatnonzero(~fallen)).tolist())
    return np.asarray(kept[:limit], dtype=np.int64)


class _Sketch:
    """An upper bound of cosines from a few directions.

    With an orthonormal basis Q, x . y <= Qx . Qy + |rest of x| |rest of y| (Cauchy-Schwarz). So a
    row is stored as its coordinates in Q and the length of its rest, and the product of two such
    short rows bounds the cosine. The basis spans the main directions of a sample (one step of
    randomised subspace iteration, Halko et al. 2011): any basis is correct, a good one is tight.
    """

    def __init__(self, x: F32, order: Rows) -> None:
        width = x.shape[1]
        sample = unit64(x[order[:: max(1, len(order) // 1024)]]).astype(np.float32)
        start = np.random.default_rng(0).normal(size=(width, min(256, width // 6)))
        image = sample.T @ (sample @ start.astype(np.float32))
        self.basis = np.linalg.qr(image.astype(np.float64))[0].astype(np.float32)

    def __call__(self, unit: F32) -> F32:
        inside = unit @ self.basis
        square = np.einsum("ij,ij->i", inside, inside)
        # A little more than the rest, so that rounding cannot make the bound too small.
        rest = np.sqrt(np.maximum(1 - square, 0) + 4e-6)
        return np.concatenate([inside, rest[:, None]], axis=1)


class _Scan:
    """The state of one pass: what was kept, and what the rest fell to."""

    def __init__(self, x: F32, order: Rows, tau: float, limit: int) -> None:
        self.x, self.order, self.tau, self.limit = x, order, tau, limit
        # Below this width a bound costs about as much as the cosine.
        worth = x.shape[1] >= 96 and len(order) >= 512
        self.sketch = _Sketch(x, order) if worth else None
        self.misses = 0
        self.count = self.examined = 0
        room = min(limit, 1024)
        self.kept = np.empty((room, x.shape[1]), dtype=np.float32)
        self.short = np.empty((room, self.sketch.basis.shape[1] + 1 if self.sketch else 0), "f4")
        self.positions = np.empty(limit, dtype=np.int64)
        self.nearest = np.full(len(order), -1, dtype=np.int64)
        self.similarity = np.full(len(order), np.nan, dtype=np.float32)

    def block(self, start: int, end: int) -> None:
        """Examine the positions from `start` to `end`, or to the limit."""
        wide = unit64(self.x[self.order[start:end]])
        part = wide.astype(np.float32)
        short = self.sketch(part) if self.sketch else part[:, :0]
        fallen, place, value = self._against_kept(wide, part, short)
        gram, over = self._among(wide, part, short)
        taken = _resolve(over, ~fallen, self.limit - self.count)
        full = self.count + len(taken) >= self.limit
        stop = int(taken[-1]) + 1 if full else end - start
        self.examined = start + stop
        here = slice(start, self.examined)
        self.nearest[here] = np.where(place[:stop] >= 0, self.positions[place[:stop]], -1)
        self.similarity[here] = value[:stop]
        _inside(gram[:stop], taken, start, self.nearest[here], self.similarity[here])
        self._keep(start + taken, part[taken], short[taken])

    def result(self) -> Filtered:
        """What was kept, and what the others fell to."""
        kept = self.positions[: self.count]
        self.nearest[kept], self.similarity[kept] = -1, np.nan
        return Filtered(kept, self.nearest[: self.examined], self.similarity[: self.examined])

    def _against_kept(self, wide: F64, part: F32, short: F32) -> tuple[Mask, Rows, F32]:
        kept = self.kept[: self.count]
        pairs = self._candidates(short, self.short[: self.count])
        if pairs is None:
            place, value = _nearest(part, kept)
            rows = self.order[self.positions[: self.count]]
            return _exceeds(value, self.tau, wide, part, kept, self.x, rows), place, value
        first, second = pairs
        place = np.full(len(part), -1, dtype=np.int64)
        value = np.full(len(part), np.nan, dtype=np.float32)
        used, at = np.unique(second, return_inverse=True)
        others = unit64(self.x[self.order[self.positions[used]]])
        exact = _cosines(wide, others, first, at)
        close = exact > self.tau
        # Nearest last, and of equals the one kept first: the last write of a row stays.
        order = np.lexsort((-second[close], exact[close]))
        place[first[close][order]] = second[close][order]
        value[first[close][order]] = exact[close][order]
        return place >= 0, place, value

    def _among(self, wide: F64, part: F32, short: F32) -> tuple[F32, Mask]:
        """Cosines within the block and which exceed tau; only pairs near or above it are known."""
        pairs = self._candidates(short, short)
        if pairs is None:
            gram = part @ part.T
            near = np.triu(np.abs(gram - self.tau) <= slack(part.shape[1]), 1)
            first, second = np.nonzero(near)
        else:
            later = pairs[0] < pairs[1]
            first, second = pairs[0][later], pairs[1][later]
            gram = np.full((len(part), len(part)), -np.inf, dtype=np.float32)
        over = gram > self.tau
        if len(first):
            exact = _cosines(wide, wide, first, second)
            over[first, second] = exact > self.tau
            gram[second, first] = exact
        return gram, over

    def _candidates(self, short: F32, others: F32) -> tuple[Rows, Rows] | None:
        """Pairs whose bound exceeds tau; None when there is no bound or it tells too little."""
        if self.sketch is None or self.misses > 3:
            return None
        step = rows_per_block(len(short), 262_144)
        firsts, seconds = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        most = max(4 * len(short), int(_FEW * len(short) * len(others)))
        for start in range(0, len(others), step):
            bound = short @ others[start : start + step].T
            # Flat first: finding the true cells of a matrix is several times slower.
            cells = np.flatnonzero(bound.ravel() > self.tau - slack(self.x.shape[1]))
            first, second = np.divmod(cells, bound.shape[1])
            most -= len(cells)
            if most < 0:
                self.misses += 1
                return None
            firsts.append(first)
            seconds.append(second + start)
        return np.concatenate(firsts), np.concatenate(seconds)

    def _keep(self, positions: Rows, part: F32, short: F32) -> None:
        count = self.count + len(positions)
        self.kept, self.short = _grown(self.kept, count), _grown(self.short, count)
        self.kept[self.count : count] = part
        self.short[self.count : count] = short
        self.positions[self.count : count] = positions
        self.count = count


def _nearest(part: F32, kept: F32) -> tuple[Rows, F32]:
    """The most similar kept row of each row (first on ties), -1 and NaN where none is kept."""
    place = np.full(len(part), -1, dtype=np.int64)
    value = np.full(len(part), np.nan, dtype=np.float32)
    here = np.arange(len(part))
    step = rows_per_block(len(part), CELLS // 2)
    for start in range(0, len(kept), step):
        scores = part @ kept[start : start + step].T
        best = scores.argmax(axis=1)
        top = scores[here, best]
        better = ~(top <= value)
        place[better] = start + best[better]
        value[better] = top[better]
    return place, value


def _exceeds(
    value: F32, tau: float, wide: F64, part: F32, kept: F32, x: F32, kept_rows: Rows
) -> Mask:
    """Which rows exceed tau with a kept row, in float64 where float32 is too coarse."""
    margin = slack(part.shape[1])
    above = value > tau + margin
    for i in np.flatnonzero(np.abs(value - tau) <= margin):
        close = np.flatnonzero(kept @ part[i] > tau - 2 * margin)
        exact = _cosines(wide[i : i + 1], unit64(x[kept_rows[close]]), None, None)
        above[i] = exact.max(initial=-1.0) > tau
    return above


def _cosines(a: F64, b: F64, first: Rows | None, second: Rows | None) -> F64:
    """Cosines of pairs of unit rows, always by the same summation: a matrix product rounds by its
    shape."""
    if first is None or second is None:
        first, second = np.zeros(len(b), dtype=np.int64), np.arange(len(b))
    cosine = np.empty(len(first))
    step = rows_per_block(a.shape[1])
    for start in range(0, len(first), step):
        here = slice(start, start + step)
        cosine[here] = (a[first[here]] * b[second[here]]).sum(axis=1)
    # A row's cosine with its own copy may come out as 1 + 2e-16; at tau = 1 nothing is too close.
    return np.clip(cosine, -1.0, 1.0)


def _resolve(over: Mask, alive: Mask, room: int) -> Rows:
    """Take the rows of a block in order, each striking out the later ones it is too close to.

    Rows are the bits of one big integer, so a pick costs well under a microsecond.
    """
    packed = np.packbits(over, axis=1, bitorder="little")
    left = int.from_bytes(np.packbits(alive, bitorder="little").tobytes(), "little")
    taken: list[int] = []
    while left and len(taken) < room:
        lowest = left & -left
        row = lowest.bit_length() - 1
        taken.append(row)
        left &= ~(lowest | int.from_bytes(packed[row].tobytes(), "little"))
    return np.asarray(taken, dtype=np.int64)


def _inside(gram: F32, taken: Rows, start: int, nearest: Rows, similarity: F32) -> None:
    """Bring the rows kept within the block into `nearest` and `similarity`, in place."""
    if not len(taken):
        return
    scores = np.where(taken < np.arange(len(gram))[:, None], gram[:, taken], -np.inf)
    best = scores.argmax(axis=1)
    top = scores[np.arange(len(gram)), best]
    better = (top > -np.inf) & ~(top <= similarity)
    nearest[better] = start + taken[best[better]]
    similarity[better] = top[better]


def _grown(kept: F32, count: int) -> F32:
    """`kept` with room for `count` rows, doubled when it must grow."""
    if count <= len(kept):
        return kept
    larger = np.empty((max(count, 2 * len(kept)), kept.shape[1]), dtype=np.float32)
    larger[: len(kept)] = kept
    return larger
