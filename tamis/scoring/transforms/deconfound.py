"""A score without what is known to distort it: source, season, popularity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from tamis.errors import DataError, RecipeError
from tamis.numerics import regression
from tamis.numerics.cells import groups
from tamis.numerics.mixed import random_intercepts
from tamis.scoring.base import Advance, PoolColumns, Rows
from tamis.scoring.transforms.columns import NO_VALUE, finite, numbers
from tamis.scoring.transforms.design import design

Method = Literal["ols", "fixed_effects", "random_effects", "crossfit", "iv"]
# First-stage F below which an instrument is called weak, and below which it is not used.
WEAK, USELESS = 10.0, 1.0


@dataclass(frozen=True)
class Deconfound:
    """`column` less what a linear model of the confounders `by` says of it, in the same unit.

    `value` = y - fit + mean(y); `fit` and `residual` = y - fit are columns too. Methods: `ols`;
    `fixed_effects`, a constant for every group of one or two `group` columns; `random_effects`, the
    same shrunk for small groups (REML); `crossfit`, a ridge with `penalty` fitted on the other of
    `folds` parts, whole groups if `group` is named; `iv`, two-stage least squares for a cause
    (`endogenous`) that quality itself drives, by columns that move it alone (`instrument`).
    `weight` names the weights of rows (ols, fixed_effects); rows of weight 0 are adjusted, not
    fitted. `output` says what `value` is; `group_only` (random_effects) keeps the part of `by`.

    Source: standard econometrics after the idea of DeconfoundLM (arXiv 2506.00152), whose procedure
    and code are not public: no reproduction. O(n p^2), for random_effects also O(groups p^2) a
    step.
    """

    column: str
    method: Method = "ols"
    by: tuple[str, ...] = ()
    group: tuple[str, ...] = ()
    endogenous: str | None = None
    instrument: tuple[str, ...] = ()
    weight: str | None = None
    output: Literal["adjusted", "residual", "zscore", "group_only"] = "adjusted"
    folds: int = 5
    penalty: float = 1.0
    seed: int = 0

    name: ClassVar[str] = "deconfound"
    version: ClassVar[int] = 1
    about: ClassVar[Mapping[str, str]] = {
        "sentence": "A score less what known confounders (source, date, popularity) say of it.",
        "needs": "a column of scores and the columns that distort it",
        "view": "none: it reads columns",
        "cost": "a second or two per 100k rows",
        "avoid": "for consequences of quality: taking them out takes quality out; needs `iv`",
    }
    fields = ("value", "fit", "residual", "reason")

    def needs(self) -> frozenset[str]:
        """Every column that an option names."""
        more = [name for name in (self.endogenous, self.weight) if name]
        return frozenset({self.column, *self.by, *self.group, *self.instrument, *more})

    def identity(self) -> Mapping[str, Any]:
        """The options."""
        return {
            "column": self.column,
            "method": self.method,
            "by": list(self.by),
            "group": list(self.group),
            "iv": [self.endogenous, list(self.instrument)],
            "weight": self.weight,
            "output": self.output,
            "crossfit": [self.folds, self.penalty, self.seed],
        }

    def check(self) -> None:
        """Raise if the method lacks a column, or is given one that it would not look at."""
        effects = self.method in ("fixed_effects", "random_effects")
        most = {"fixed_effects": 2, "random_effects": 1, "crossfit": 1}.get(self.method, 0)
        rules = [
            (bool(self.group) or not effects, f"{self.method} needs group"),
            (len(self.group) <= most, f"{self.method} takes at most {most} columns in group"),
            (effects or self.method == "iv" or bool(self.by), f"{self.method} needs by"),
            (
                (self.method == "iv") == bool(self.endogenous and self.instrument)
                and bool(self.endogenous) == bool(self.instrument),
                "iv needs endogenous and instrument, other methods neither",
            ),
            (
                self.weight is None or self.method in ("ols", "fixed_effects"),
                f"{self.method} takes no weight",
            ),
            (
                self.output != "group_only" or self.method == "random_effects",
                "output group_only is for random_effects",
            ),
            (self.folds >= 2 and self.penalty > 0, "folds must be 2 or more and penalty above 0"),
        ]
        for holds, problem in rules:
            if not holds:
                raise RecipeError(f"deconfound: {problem}")

    def score_pool(self, rows: Rows, *, advance: Advance) -> PoolColumns:
        """The three columns, NaN with a reason where the score (for iv also the cause) has no
        value. Raises `DataError` for infinite values, negative weights and too few rows."""
        y, weight, some = self._rows(rows)
        given = {name: column[some] for name, column in rows.columns.items()}
        x, names = design({name: given[name] for name in self.by}, len(some), self.name)
        fit, effect, facts = self._fitted(y[some], x, names, given, weight[some])
        middle = float(np.average(y[some], weights=weight[some]))
        residual = y[some] - fit
        value = self._value(y[some], residual, middle, effect)
        columns = {}
        for name, values in (("value", value), ("fit", fit), ("residual", residual)):
            columns[name] = np.full(rows.n, np.nan)
            columns[name][some] = values
        reason = np.full(rows.n, NO_VALUE, dtype=object)
        reason[some] = None
        advance(rows.n)
        spread = float(((y[some] - middle) ** 2).sum())
        r2 = 1 - float((residual**2).sum()) / spread if spread else 0.0
        facts = {"r2": round(r2, 4), "rows": len(some), **facts}
        return PoolColumns({**columns, "reason": reason}, facts=facts)

    def _rows(self, rows: Rows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The score, the weights, and the rows that can be adjusted."""
        y = finite(numbers(rows, self.column, self.name), self.column, self.name)
        known = ~np.isnan(y)
        weight = np.ones(rows.n)
        if self.weight is not None:
            weight = finite(numbers(rows, self.weight, self.name), self.weight, self.name)
            if (weight < 0).any():
                raise DataError(f"{self.name}: {self.weight} has negative weights")
            weight = np.nan_to_num(weight)
        if self.endogenous is not None:
            known &= ~np.isnan(numbers(rows, self.endogenous, self.name))
        if not (known & (weight > 0)).any():
            raise DataError(f"{self.name}: no row has a value of {self.column} to fit")
        return y, weight, np.flatnonzero(known)

    def _value(
        self, y: np.ndarray, residual: np.ndarray, middle: float, effect: np.ndarray
    ) -> np.ndarray:
        if self.output == "group_only":
            return y - effect
        if self.output == "adjusted":
            return residual + middle
        spread = float(residual.std()) if self.output == "zscore" else 1.0
        return residual / (spread or 1.0)

    def _fitted(
        self,
        y: np.ndarray,
        x: np.ndarray,
        names: list[str],
        given: Mapping[str, Any],
        weight: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
        """The fitted values, the part of the group in them, and facts."""
        codes = [groups(_one_value(given[name], name)) for name in self.group]
        nothing = np.zeros(len(y))
        if self.method == "iv":
            fit, facts = self._instrumented(y, x, given)
            return fit, nothing, facts
        if self.method == "crossfit":
            fold = self._folds(codes[0] if codes else np.arange(len(y)))
            return regression.crossfit(x, y, fold, self.penalty), nothing, {"folds": self.folds}
        if self.method == "random_effects":
            count = int(codes[0].max()) + 1
            mixed = random_intercepts(x, y, codes[0], count)
            effect = mixed.effects[codes[0]]
            facts = {"between": mixed.between, "within": mixed.within, "groups": count}
            slopes = _told(names, mixed.slopes)
            return mixed.intercept + x @ mixed.slopes + effect, effect, facts | slopes
        if self.method == "ols":
            used = weight > 0
            line = regression.least_squares(x[used], y[used], weight[used])
            facts = {"rank": line.rank, **_told(names, line.slopes)}
            ridge = {"too_few_rows": "fitted as a ridge"} if line.ridge else {}
            return line.predict(x), nothing, facts | ridge
        return _fixed(y, x, names, codes, weight)

    def _folds(self, code: np.ndarray) -> np.ndarray:
        """A part of each row; rows of one code are never apart."""
        count = int(code.max()) + 1
        order = np.random.default_rng(self.seed).permutation(count)
        return (order % self.folds)[code]

    def _instrumented(
        self, y: np.ndarray, x: np.ndarray, given: Mapping[str, Any]
    ) -> tuple[np.ndarray, dict[str, Any]]:
        cause = finite(given[self.endogenous].astype(np.float64), str(self.endogenous), self.name)
        moves, _ = design({name: given[name] for name in self.instrument}, len(y), self.name)
        found = regression.two_stage(y, cause, moves, x)
        facts: dict[str, Any] = {
            "effect": found.slope,
            "standard_error": found.error,
            "first_stage_f": found.f,
        }
        if found.f < USELESS:
            facts["warning"] = "the instrument does not move the cause: the score is NOT adjusted"
            return np.full(len(y), y.mean()), facts
        if found.f < WEAK:
            facts["warning"] = "the instrument is weak: the effect is uncertain and biased"
        return y.mean() + found.slope * (cause - cause.mean()), facts


def _fixed(
    y: np.ndarray, x: np.ndarray, names: list[str], codes: list[np.ndarray], weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """What `_fitted` gives, with a constant for every group."""
    used = weight > 0
    found = regression.fixed_effects(x[used], y[used], [c[used] for c in codes], weight[used])
    effect = np.zeros(len(y))
    for effects, code in zip(found.effects, codes, strict=True):
        effect += _spread(effects, code, used)
    fit = found.line.predict(x) + effect
    # Rows of their own group are fitted exactly, without the rounding of the way back.
    fit[used] = y[used] - found.residual
    facts = {"rows_alone_in_group": int(found.alone.sum())}
    return fit, effect, facts | _told(names, found.line.slopes)


def _one_value(column: Any, name: str) -> np.ndarray:
    if not isinstance(column, np.ndarray) or column.ndim != 1:
        raise DataError(f"deconfound: group {name} holds several values a row")
    return column if column.dtype == object else column.astype(np.float64)


def _spread(effects: np.ndarray, code: np.ndarray, used: np.ndarray) -> np.ndarray:
    """The effect of each row; groups of which nothing was fitted get the mean of the others."""
    seen = np.zeros(int(code.max()) + 1, dtype=bool)
    seen[code[used]] = True
    whole = np.full(len(seen), effects[code[used]].mean())
    whole[: len(effects)] = np.where(seen[: len(effects)], effects, whole[: len(effects)])
    return whole[code]


def _told(names: list[str], slopes: np.ndarray) -> dict[str, float]:
    """The slopes by name where they are few enough to be read."""
    if len(names) > 8:
        return {"columns": len(names)}
    return {name: round(float(slope), 6) for name, slope in zip(names, slopes, strict=True)}
