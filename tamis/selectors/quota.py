"""Exact shares of groups (sources, languages, tasks) around any other method: data mixing."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from tamis.errors import RecipeError
from tamis.numerics.allocate import allocate
from tamis.selectors import budget, checks, registry
from tamis.selectors.base import About, Pool, Selection, Selector

Rows = NDArray[np.int64]
# In weights, floors, caps and repeat: every group not named.
OTHERS = "*"


@dataclass(frozen=True)
class Quota:
    """Split the budget over groups of rows, then let `method` pick inside each group.

    A group is a combination of values of the `by` columns, written `value` or `value/value`.
    `weights`: `size` (default), `equal`, or a number a group; a group not named gets the number
    of `"*"`, else 0. `floors` and `caps` bound a group, `keep_all` lists groups taken whole.
    `repeat` tells how often the picked rows of a group are shown in an epoch; each showing costs.
    Shares, floors and caps are in the unit of the budget: rows in `select`, the sum of `costs`
    (tokens) in `divide`. When a group's method gives less than its share (deita, small groups),
    the others share the rest; what is too little for one more row goes to the next group. So in
    rows shown once the sum is exactly the budget whenever the methods can give it.

    Groups come in the order of their names, each in the order of its method. `Selection.groups`
    holds what the shares, floors and caps ask of each group, whatever its size, and what was
    spent on it. Cost: that of the method on each group, more than once only where a group fell
    short.
    """

    by: tuple[str, ...]
    method: str = "random"
    options: Mapping[str, Any] = field(default_factory=dict)
    weights: Literal["size", "equal"] | Mapping[str, float] = "size"
    floors: Mapping[str, int] = field(default_factory=dict)
    caps: Mapping[str, int] = field(default_factory=dict)
    keep_all: tuple[str, ...] = ()
    repeat: Mapping[str, int] = field(default_factory=dict)

    name: ClassVar[str] = "quota"
    prefix: ClassVar[bool] = False
    version: ClassVar[int] = 2
    about: ClassVar[About] = About(
        sentence="Gives every group its share of rows or tokens, and picks inside by a method.",
        needs="the columns that make the groups, and what the inner method needs",
        cost="that of the inner method",
        avoid="with many tiny groups: a floor for each can eat the budget",
    )

    def __post_init__(self) -> None:
        if not self.by:
            raise RecipeError("quota.by must name at least one column")
        if any(times < 1 for times in self.repeat.values()):
            raise RecipeError("quota.repeat must be 1 or more: how often a row is shown")
        if getattr(self._inner(), "trains", False):
            raise RecipeError(f"quota.method: {self.method} trains a model and cannot stand inside")
        if getattr(self._inner(), "repeat", None) and self.method == self.name:
            raise RecipeError("quota.repeat belongs to the outer quota; name all columns in its by")

    def needs(self) -> frozenset[str]:
        """The columns of the groups and those of the inner method."""
        return frozenset(self.by) | self._inner().needs()

    @property
    def target(self) -> str | None:
        """Whether the inner method takes a target, as it says itself."""
        return getattr(self._inner(), "target", None)

    def target_needs(self) -> frozenset[str]:
        """What the inner method needs of it."""
        inner = self._inner()
        return inner.target_needs() if hasattr(inner, "target_needs") else frozenset()

    def select(self, pool: Pool, k: int, *, rng: np.random.Generator) -> Selection:
        """Picks group by group; gains are those of the inner method."""
        # Rows that are shown twice let a budget exceed the pool.
        return self._divided(pool, None, checks.budget(k, np.iinfo(np.int64).max), rng)

    def divide(self, pool: Pool, costs: Rows | None, limit: int, *, seed: int) -> Selection:
        """The same for a budget in costs (n,): every group's share is one of costs."""
        return self._divided(pool, costs, limit, np.random.default_rng(seed))

    def _divided(
        self, pool: Pool, costs: Rows | None, limit: int, rng: np.random.Generator
    ) -> Selection:
        names, label = self._names(pool)
        inner = self._inner()
        wanted = {name: checks.column(pool, name) for name in sorted(inner.needs())}
        pool = Pool(pool.n, wanted, pool.target, pool.labels)
        ones = np.ones(len(names), dtype=np.int64)
        repeat = self._numbers("repeat", self.repeat, names, ones)
        groups = []
        for g, seed in enumerate(rng.integers(2**63, size=len(names)).tolist()):
            rows = np.flatnonzero(label == g)
            cost = None if costs is None else costs[rows]
            groups.append(_Group(inner, rows, pool.take(rows), cost, int(repeat[g]), seed))
        sizes = np.array([group.size for group in groups], dtype=np.int64)
        limit = min(limit, int(sizes.sum()))
        asked = self._shares(names, sizes, limit, room=np.full_like(sizes, limit))
        picked = self._filled(names, groups, sizes, limit)
        spent = [picked[g].spent if g in picked else 0 for g in range(len(names))]
        told = {
            "name": np.array(names, dtype=object),
            "asked": asked,
            "spent": np.array(spent, dtype=np.int64),
        }
        columns = {"cluster": label} | ({"repeat": repeat[label]} if self.repeat else {})
        return _merge(pool.n, groups, picked, columns, told)

    def _filled(
        self, names: list[str], groups: list[_Group], sizes: Rows, limit: int
    ) -> dict[int, _Picked]:
        """The picks of each group that has a share."""
        room = sizes.copy()
        known: dict[int, _Picked] = {}
        while True:
            shares = self._shares(names, sizes, limit, room=room)
            caps = np.minimum(self._numbers("caps", self.caps, names, sizes), room)
            # What was too little for one more row goes on to the next group.
            over, short = 0, False
            for g in np.flatnonzero(shares).tolist():
                limit_g = min(int(shares[g]) + over, int(caps[g]))
                if g not in known or limit_g not in (known[g].limit, known[g].spent):
                    known[g] = groups[g].pick(limit_g)
                if known[g].spent < limit_g and known[g].nothing_more:
                    room[g], short = known[g].spent, True
                else:
                    over += int(shares[g]) - known[g].spent
            if not short:
                return {g: known[g] for g in np.flatnonzero(shares).tolist()}

    def _inner(self) -> Selector:
        return registry.build(self.method, self.options)

    def _names(self, pool: Pool) -> tuple[list[str], Rows]:
        columns = [checks.texts(pool, name) for name in self.by]
        combined = np.array(["/".join(parts) for parts in zip(*columns, strict=True)], dtype=object)
        if pool.n == 0:
            return [], np.empty(0, dtype=np.int64)
        names, label = np.unique(combined, return_inverse=True)
        return [str(name) for name in names], label.astype(np.int64)

    def _shares(self, names: list[str], sizes: Rows, limit: int, *, room: Rows) -> Rows:
        """The budget of each group, at most `room`."""
        floors = self._numbers("floors", self.floors, names, np.zeros_like(sizes))
        for name in self._known("keep_all", self.keep_all, names):
            floors[names.index(name)] = sizes[names.index(name)]
        caps = np.minimum(self._numbers("caps", self.caps, names, room), room)
        if self.weights == "size":
            weights = sizes.astype(np.float64)
        elif self.weights == "equal":
            weights = np.ones(len(names))
        else:
            given = self.weights
            self._known("weights", given, names)
            weights = np.array([given.get(n, given.get(OTHERS, 0.0)) for n in names])
        floors = np.minimum(np.minimum(floors, sizes), caps)
        return allocate(room, limit, weights, floors=floors, caps=caps)

    def _numbers(
        self, what: str, given: Mapping[str, int], names: list[str], missing: Rows
    ) -> Rows:
        """A number a group: the one given for it, or for all others, or `missing`."""
        self._known(what, given, names)
        if any(value < 0 for value in given.values()):
            raise RecipeError(f"quota.{what} must be 0 or more")
        numbers = missing.copy()
        for g, name in enumerate(names):
            if name in given or OTHERS in given:
                numbers[g] = given.get(name, given.get(OTHERS, 0))
        return numbers

    def _known(self, what: str, given: Iterable[str], names: list[str]) -> list[str]:
        given = [name for name in given if name != OTHERS]
        for name in given:
            if names and name not in names:
                near = difflib.get_close_matches(name, names, 1)
                some = ", ".join(names[:10])
                hint = f"did you mean {near[0]}?" if near else f"there are: {some}"
                raise RecipeError(f"quota.{what}: no row is in group {name!r}; {hint}")
        return [name for name in given if name in names]


@dataclass(frozen=True, slots=True)
class _Picked:
    """What a group gave within `limit`. `nothing_more`: any other row of it would still fit, so its
    method has given all it has."""

    found: Selection
    limit: int
    spent: int
    nothing_more: bool


@dataclass(frozen=True, slots=True)
class _Group:
    """Rows that share a budget. `costs` of each, None where rows are counted; shown `repeat`
    times."""

    method: Selector
    rows: Rows
    pool: Pool
    costs: Rows | None
    repeat: int
    seed: int

    @property
    def size(self) -> int:
        """What all of it costs."""
        return self.repeat * (self.pool.n if self.costs is None else int(self.costs.sum()))

    def pick(self, limit: int) -> _Picked:
        found = budget.fit(self.method, self.pool, self.costs, limit // self.repeat, seed=self.seed)
        spent = self.repeat * budget.spent(found, self.costs)
        costs = np.ones(self.pool.n, dtype=np.int64) if self.costs is None else self.costs
        dearest = int(np.delete(costs, found.index).max(initial=0))
        return _Picked(found, limit, spent, limit - spent >= self.repeat * dearest)


def _merge(
    n: int,
    groups: list[_Group],
    picked: Mapping[int, _Picked],
    columns: Mapping[str, Any],
    told: Mapping[str, Any],
) -> Selection:
    reason = np.full(n, "group_has_no_share", dtype=object)
    nearest = np.full(n, -1, dtype=np.int64)
    similarity = np.full(n, np.nan)
    index, gain, solves = [np.empty(0, dtype=np.int64)], [np.empty(0)], [0]
    for g, one in picked.items():
        rows, inner = groups[g].rows, one.found
        index.append(rows[inner.index])
        gain.append(inner.gain)
        solves.append(int(inner.facts["solves"]))
        reason[rows] = inner.rows.get("reason", checks.reasons(len(rows), "not_drawn", inner.index))
        if "nearest_kept" in inner.rows:
            near = inner.rows["nearest_kept"]
            nearest[rows] = np.where(near >= 0, rows[np.maximum(near, 0)], -1)
            similarity[rows] = inner.rows["similarity"]
    per_row = {"reason": reason, **columns}
    if (nearest >= 0).any():
        per_row |= {"nearest_kept": nearest, "similarity": similarity}
    # `solves` is that of the group that was solved most often: a pass over the pool costs one.
    facts = {"groups": len(groups), "solves": max(solves)}
    return Selection(np.concatenate(index), np.concatenate(gain), facts, {}, per_row, told)
