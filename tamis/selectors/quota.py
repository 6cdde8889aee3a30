"""Exact shares of groups (sources, languages, tasks) around any other method."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from tamis.errors import RecipeError
from tamis.numerics.allocate import allocate
from tamis.selectors import checks, registry
from tamis.selectors.base import About, Pool, Selection, Selector

Rows = NDArray[np.int64]
# In weights, floors and caps: every group not named.
OTHERS = "*"


@dataclass(frozen=True)
class Quota:
    """Split the budget over groups of rows, then let `method` pick inside each group.

    A group is a combination of values of the `by` columns, written `value` or `value/value`.
    `weights`: `size` (default), `equal`, or a number a group; a group not named gets the number
    of `"*"`, else 0. `floors` and `caps` are rows a group, `keep_all` lists groups taken whole.
    When a group's method gives fewer rows than its share (deita, small groups), the others share
    the rest, so the sum is exactly the budget whenever the methods can give it.

    Groups come in the order of their names, each in the order of its method. Cost: that of the
    method on each group, more than once only where a group fell short.
    """

    by: tuple[str, ...]
    method: str = "random"
    options: Mapping[str, Any] = field(default_factory=dict)
    weights: Literal["size", "equal"] | Mapping[str, float] = "size"
    floors: Mapping[str, int] = field(default_factory=dict)
    caps: Mapping[str, int] = field(default_factory=dict)
    keep_all: tuple[str, ...] = ()

    name: ClassVar[str] = "quota"
    prefix: ClassVar[bool] = False
    version: ClassVar[int] = 1
    about: ClassVar[About] = About(
        sentence="Gives every group its share, with floors and caps, and picks inside by a method.",
        needs="the columns that make the groups, and what the inner method needs",
        cost="that of the inner method",
        avoid="with many tiny groups: a floor for each can eat the budget",
    )

    def __post_init__(self) -> None:
        if not self.by:
            raise RecipeError("quota.by must name at least one column")
        self._inner()

    def needs(self) -> frozenset[str]:
        """The columns of the groups and those of the inner method."""
        return frozenset(self.by) | self._inner().needs()

    def select(self, pool: Pool, k: int, *, rng: np.random.Generator) -> Selection:
        """Picks group by group; gains are those of the inner method."""
        k = checks.budget(k, pool.n)
        names, label = self._groups(pool)
        inner = self._inner()
        wanted = {name: checks.column(pool, name) for name in sorted(inner.needs())}
        pool = Pool(pool.n, wanted, pool.target, pool.labels)
        members = [np.flatnonzero(label == g) for g in range(len(names))]
        sizes = np.array([len(rows) for rows in members], dtype=np.int64)
        seeds = rng.integers(2**63, size=len(names))
        caps = self._bounds("caps", self.caps, names, sizes, missing=sizes)
        picked: dict[int, Selection] = {}
        while True:
            shares = self._shares(names, sizes, k, caps)
            picked = {g: found for g, found in picked.items() if len(found.index) == shares[g]}
            short = False
            for g in set(np.flatnonzero(shares).tolist()) - set(picked):
                stream = np.random.default_rng(seeds[g])
                found = inner.select(pool.take(members[g]), int(shares[g]), rng=stream)
                picked[g] = found
                if len(found.index) < shares[g]:
                    caps[g] = len(found.index)
                    short = True
            if not short:
                return _merge(pool.n, names, members, label, shares, picked)

    def _inner(self) -> Selector:
        return registry.build(self.method, self.options)

    def _groups(self, pool: Pool) -> tuple[list[str], Rows]:
        columns = [checks.texts(pool, name) for name in self.by]
        combined = np.array(["/".join(parts) for parts in zip(*columns, strict=True)], dtype=object)
        if pool.n == 0:
            return [], np.empty(0, dtype=np.int64)
        names, label = np.unique(combined, return_inverse=True)
        return [str(name) for name in names], label.astype(np.int64)

    def _shares(self, names: list[str], sizes: Rows, k: int, caps: Rows) -> Rows:
        floors = self._bounds("floors", self.floors, names, sizes, missing=np.zeros_like(sizes))
        for name in self._known("keep_all", self.keep_all, names):
            floors[names.index(name)] = sizes[names.index(name)]
        if self.weights == "size":
            weights = sizes.astype(np.float64)
        elif self.weights == "equal":
            weights = np.ones(len(names))
        else:
            given = self.weights
            self._known("weights", [n for n in given if n != OTHERS], names)
            weights = np.array([given.get(n, given.get(OTHERS, 0.0)) for n in names])
        return allocate(sizes, k, weights, floors=np.minimum(floors, caps), caps=caps)

    def _bounds(
        self, what: str, given: Mapping[str, int], names: list[str], sizes: Rows, *, missing: Rows
    ) -> Rows:
        self._known(what, [n for n in given if n != OTHERS], names)
        bounds = missing.copy()
        for g, name in enumerate(names):
            if name in given or OTHERS in given:
                bounds[g] = min(given.get(name, given.get(OTHERS, 0)), sizes[g])
        if (bounds < 0).any():
            raise RecipeError(f"quota.{what} must be 0 rows or more")
        return bounds

    def _known(self, what: str, given: Any, names: list[str]) -> list[str]:
        for name in given:
            if names and name not in names:
                near = difflib.get_close_matches(name, names, 1)
                some = ", ".join(names[:10])
                hint = f"did you mean {near[0]}?" if near else f"there are: {some}"
                raise RecipeError(f"quota.{what}: no row is in group {name!r}; {hint}")
        return [name for name in given if name in names]


def _merge(
    n: int,
    names: list[str],
    members: list[Rows],
    label: Rows,
    shares: Rows,
    picked: Mapping[int, Selection],
) -> Selection:
    reason = np.full(n, "group_has_no_share", dtype=object)
    nearest = np.full(n, -1, dtype=np.int64)
    similarity = np.full(n, np.nan)
    index, gain = [np.empty(0, dtype=np.int64)], [np.empty(0)]
    facts: dict[str, float | int | str] = {"groups": len(names)}
    for g, name in enumerate(names):
        facts[f"asked.{name}"] = int(shares[g])
        facts[f"kept.{name}"] = len(picked[g].index) if g in picked else 0
        if g not in picked:
            continue
        rows, inner = members[g], picked[g]
        index.append(rows[inner.index])
        gain.append(inner.gain)
        reason[rows] = inner.rows.get("reason", checks.reasons(len(rows), "not_drawn", inner.index))
        if "nearest_kept" in inner.rows:
            near = inner.rows["nearest_kept"]
            nearest[rows] = np.where(near >= 0, rows[np.maximum(near, 0)], -1)
            similarity[rows] = inner.rows["similarity"]
    columns = {"reason": reason, "cluster": label}
    if (nearest >= 0).any():
        columns |= {"nearest_kept": nearest, "similarity": similarity}
    return Selection(np.concatenate(index), np.concatenate(gain), facts=facts, rows=columns)
