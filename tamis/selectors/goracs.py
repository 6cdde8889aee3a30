"""A group of rows whose distribution is close to a target's (GORACS)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from tamis.errors import DataError, RecipeError
from tamis.numerics import exchange, transport
from tamis.numerics.allocate import allocate
from tamis.numerics.blocked import rows_per_block, unit_rows
from tamis.numerics.exchange_start import start
from tamis.selectors import checks
from tamis.selectors.base import About, Pool, Selection

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Rows = NDArray[np.int64]
Distances = NDArray[Any]
Facts = dict[str, "float | int | str"]

# The distances of all candidates and targets are kept: float64 up to so many (0.8 GB), float32
# up to four times as many (1.6 GB).
_CELLS = 100_000_000


@dataclass(frozen=True)
class Goracs:
    """Minimise W1(chosen rows, target) / longest distance - weight x mean scaled gradient norm.

    Greedy start on the semi-relaxed problem, then steps that exchange rows while the exact cost
    (POO) falls: at most `exchanges` steps, among the `cut` most promising rows inside and outside,
    with at most `tries` exact solves each; exact lower bounds spare many. Small problems get more
    solves and the best of several descents. The target is the pool's, or without one a random
    `sample` of the pool itself. `group` names a column of pool and target: then each group's
    budget follows the target's shares and is solved alone. The gain of a pick is how much its
    presence lowers the cost.

    Needs the n x m distances in memory: float64 up to 1e8 of them, float32 up to 4e8, `DataError`
    beyond. O(n m d) + lazy greedy + O(n m) a step. Exact solves are by POT (the extra `ot`);
    without it only problems of up to 60,000 cells run.

    Source: "GORACS", 2025 (arXiv 2506.04015). Differs from the authors' code, whose pruning score
    takes the wrong end of a sort and never leaves the row itself out, and which solves pair after
    pair: `official=True` does as they do.
    """

    embedding: str = "embed.vector"
    gradient: str | None = None
    weight: float = 0.5
    group: str | None = None
    sample: int = 1000
    exchanges: int = 100
    cut: int = 30
    tries: int = 20
    normalize: bool = True
    official: bool = False

    name: ClassVar[str] = "goracs"
    prefix: ClassVar[bool] = False
    target: ClassVar[Literal["required", "optional"]] = "optional"
    version: ClassVar[int] = 2
    about: ClassVar[About] = About(
        sentence="Chooses a group of rows that together look like the target.",
        needs="an embedding; optionally a target and a gradient norm",
        cost="minutes to hours: exact transport problems of budget x target size",
        avoid="for budgets of many thousands of rows",
    )

    def __post_init__(self) -> None:
        if self.weight < 0 or self.sample < 1 or self.exchanges < 0:
            raise RecipeError("goracs needs weight >= 0, sample >= 1 and exchanges >= 0")
        if self.cut < 1 or self.tries < 1:
            raise RecipeError("goracs.cut and goracs.tries must be 1 or more")

    def needs(self) -> frozenset[str]:
        """The embedding, and the gradient norm and the group where named."""
        return frozenset(n for n in (self.embedding, self.gradient, self.group) if n)

    def target_needs(self) -> frozenset[str]:
        """The columns a target must have: the embedding, and the group where named."""
        return frozenset(n for n in (self.embedding, self.group) if n)

    def select(self, pool: Pool, k: int, *, rng: np.random.Generator) -> Selection:
        """The chosen rows group after group; the curve `objective` is the cost after exchanges."""
        k = checks.budget(k, pool.n)
        x, bonus = self._read(pool)
        if k == 0:
            return _selection(pool.n, np.empty(0, dtype=np.int64), np.empty(0), {}, [])
        target = self._target(pool, rng)
        y = checks.matrix(target, self.embedding)
        if y.shape[1] != x.shape[1]:
            raise DataError(
                f"column {self.embedding} has {x.shape[1]} numbers a row in the pool and "
                f"{y.shape[1]} in the target"
            )
        y = unit_rows(y) if self.normalize else y
        parts = self._parts(pool, target, k)
        transport.check(max(len(wanted) * share for _, wanted, share in parts))
        distances = _distances(x, y, parts)
        longest = self._longest(distances)
        index, gain, traces = [np.empty(0, dtype=np.int64)], [np.empty(0)], []
        facts: Facts = {"solver": transport.solver(), "longest_distance": longest, "solves": 0}
        for (rows, wanted, share), distance in zip(parts, distances, strict=True):
            distance /= longest
            chosen, gains, trace = self._choose(distance, self.weight * bonus[rows], share, facts)
            index.append(rows[chosen])
            gain.append(gains)
            traces.append((trace, len(wanted)))
        return _selection(
            pool.n, np.concatenate(index), np.concatenate(gain), facts, _joined(traces)
        )

    def _longest(self, distances: list[Distances]) -> float:
        if self.official and self.group is not None:
            return 1.0  # the authors scale no distance where there are groups
        return max(float(d.max()) for d in distances) or 1.0

    def _choose(
        self, distance: Distances, bonus: F64, k: int, facts: Facts
    ) -> tuple[Rows, F64, list[float]]:
        n = len(distance)
        if k >= n:
            return np.arange(n, dtype=np.int64), np.zeros(n), []
        low, span = 0.0, 1.0
        if self.official:
            distance, bonus, low, span = _as_the_authors(distance, bonus)
        problem = exchange.Problem(distance, bonus)
        limit = self.exchanges if k > 1 else 0  # one row: the start is the best there is
        rows = start(problem, k)
        if self.official:
            found = exchange.search(problem, rows, exchanges=limit, cut=self.cut)
        else:
            found = exchange.refine(problem, rows, exchanges=limit, cut=self.cut, tries=self.tries)
        facts["solves"] = int(facts["solves"]) + problem.solves
        facts["stop"] = found.stop
        gain = -span * exchange.leaving(problem, found.rows, found.plan)
        return found.rows, gain, [low + span * value for value in found.trace]

    def _read(self, pool: Pool) -> tuple[F32, F64]:
        x = checks.matrix(pool, self.embedding)
        x = unit_rows(x) if self.normalize else x
        if self.gradient is None:
            return x, np.zeros(pool.n)
        norm = checks.numbers(pool, self.gradient)
        if (norm < 0).any():
            raise DataError(f"column {self.gradient} must hold norms, 0 or more")
        return x, norm / (float(norm.max(initial=0.0)) or 1.0)

    def _target(self, pool: Pool, rng: np.random.Generator) -> Pool:
        if pool.target is not None:
            if pool.target.n == 0:
                raise DataError("goracs needs a target of at least one row, got an empty one")
            return pool.target
        size = min(self.sample, pool.n)
        columns = {n: checks.column(pool, n) for n in sorted(self.needs())}
        rows = np.sort(rng.choice(pool.n, size, replace=False))
        return Pool(pool.n, columns).take(rows)

    def _parts(self, pool: Pool, target: Pool, k: int) -> list[tuple[Rows, Rows, int]]:
        """(candidate rows, target rows, budget) of each group."""
        if self.group is None:
            return [(np.arange(pool.n), np.arange(target.n), k)]
        own = np.array(checks.texts(pool, self.group))
        other = np.array(checks.texts(target, self.group))
        names, counts = np.unique(other, return_counts=True)
        sizes = np.array([(own == name).sum() for name in names])
        if (sizes == 0).any():
            raise DataError(
                f"the target has rows of group {str(names[sizes.argmin()])!r} and the pool has none"
            )
        shares = allocate(sizes, k, counts)
        return [
            (np.flatnonzero(own == name), np.flatnonzero(other == name), int(share))
            for name, share in zip(names, shares, strict=True)
            if share
        ]


def _distances(x: F32, y: F32, parts: list[tuple[Rows, Rows, int]]) -> list[Distances]:
    """The distances of each group's candidates to its targets."""
    from scipy.spatial.distance import cdist

    cells = sum(len(rows) * len(wanted) for rows, wanted, _ in parts)
    if cells > 4 * _CELLS:
        raise DataError(
            f"goracs keeps the distances of all {len(x)} candidates to {len(y)} targets, "
            f"{cells:,} of them, and allows {4 * _CELLS:,}: select a smaller pool first, or give "
            "fewer target rows"
        )
    kind = np.float64 if cells <= _CELLS else np.float32
    distances: list[Distances] = []
    for rows, wanted, _ in parts:
        distance = np.empty((len(rows), len(wanted)), dtype=kind)
        step, near = rows_per_block(max(distance.shape[1], x.shape[1])), y[wanted]
        for at in range(0, len(rows), step):
            distance[at : at + step] = cdist(x[rows[at : at + step]], near)
        distances.append(distance)
    return distances


def _as_the_authors(distance: Distances, bonus: F64) -> tuple[Distances, F64, float, float]:
    """Costs in float32 brought to [0, 1], without a bonus, and how to bring them back."""
    cost = distance.astype(np.float32) - bonus.astype(np.float32)[:, None]
    low, span = cost.min(), (cost.max() - cost.min()) or np.float32(1)
    return (cost - low) / span, np.zeros(len(cost)), float(low), float(span)


def _joined(traces: list[tuple[list[float], int]]) -> list[float]:
    """One curve: the mean cost over groups weighted by target rows, exchange after exchange."""
    known = [(trace, size) for trace, size in traces if trace]
    if not known:
        return []
    total = sum(size for _, size in known)
    now = [trace[0] for trace, _ in known]
    curve = [sum(v * s for v, (_, s) in zip(now, known, strict=True)) / total]
    for at, (trace, size) in enumerate(known):
        for value in trace[1:]:
            curve.append(curve[-1] + (value - now[at]) * size / total)
            now[at] = value
    return curve


def _selection(n: int, index: Rows, gain: F64, facts: Facts, curve: list[float]) -> Selection:
    if curve:
        facts |= {"start": curve[0], "objective": curve[-1], "exchanges": len(curve) - 1}
    rows = {"reason": checks.reasons(n, "not_needed", index)}
    return Selection(index, gain, facts, {"objective": np.asarray(curve)}, rows)
