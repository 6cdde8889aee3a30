"""Rows that move the pool fastest towards a target (GOT-D)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from tamis.errors import DataError, RecipeError
from tamis.numerics import sinkhorn
from tamis.numerics.blocked import unit_rows
from tamis.selectors import checks
from tamis.selectors.base import About, Pool, Selection

F64 = NDArray[np.float64]


@dataclass(frozen=True)
class GotD:
    """Rank rows by the gradient of the transport cost between pool and target in their mass.

    Entropic optimal transport with squared Euclidean cost gives a potential g_j of each row; its
    calibrated gradient n / (n - 1) (g_j - mean g) tells how the cost changes when mass moves to j
    from all others. The k smallest are taken (`direction="away"`: the largest), ties to the lowest
    row; the gain is minus the gradient. `epsilon` is in units of the cost; without it
    `relative_epsilon` times the median cost. Not converged is told among the facts, never hidden.

    `momentum` over-relaxes the solver; None takes it from how fast the error falls.

    O(n m d) an iteration, O(n + m) memory beyond the embeddings; while the kernel takes less than
    1 GB it is stored, and an iteration is O(n m). Source: Kang et al., "Get more for less", 2024
    (arXiv 2405.02774), with the calibration of LAVA (Just et al., 2023). Differs from the authors'
    code: division by n - 1, a marginal error of 1e-3 in place of 0.1, an epsilon relative to the
    data.
    """

    embedding: str = "embed.vector"
    epsilon: float | None = None
    relative_epsilon: float = 0.05
    tolerance: float = 1e-3
    iterations: int = 2000
    momentum: float | None = None
    direction: Literal["toward", "away"] = "toward"
    normalize: bool = True
    precision: sinkhorn.Precision = "float64"

    name: ClassVar[str] = "gotd"
    prefix: ClassVar[bool] = True
    target: ClassVar[Literal["required", "optional"]] = "required"
    version: ClassVar[int] = 2
    about: ClassVar[About] = About(
        sentence="Takes the rows that move the pool fastest towards a target distribution.",
        needs="an embedding of the pool and of a target",
        cost="seconds for 50,000 rows and a target of 2,000, then in proportion",
        avoid="for more than about 5 % of the pool: it follows one gradient, however far",
    )

    def __post_init__(self) -> None:
        if (self.epsilon is not None and not self.epsilon > 0) or not self.relative_epsilon > 0:
            raise RecipeError("gotd.epsilon and gotd.relative_epsilon must be above 0")
        momentum = 1.0 if self.momentum is None else self.momentum
        if not 0 < momentum < 2 or not self.tolerance > 0 or self.iterations < 1:
            raise RecipeError(
                "gotd needs momentum between 0 and 2, a tolerance above 0 and 1 iteration or more"
            )

    def needs(self) -> frozenset[str]:
        """The embedding."""
        return frozenset({self.embedding})

    def target_needs(self) -> frozenset[str]:
        """The columns the target must have: the embedding."""
        return frozenset({self.embedding})

    def select(self, pool: Pool, k: int, *, rng: np.random.Generator) -> Selection:
        """Rows by rising gradient."""
        k = checks.budget(k, pool.n)
        gradient, facts = self.gradient(pool)
        # Rounded, so that copies tie whatever the last digits of a product.
        key = np.round(gradient if self.direction == "toward" else -gradient, 11)
        index = np.argsort(key, kind="stable")[:k].astype(np.int64)
        rows = {"reason": checks.reasons(pool.n, "below_cut", index), "gradient": gradient}
        return Selection(index, -key[index], facts=facts, rows=rows)

    def gradient(self, pool: Pool) -> tuple[F64, dict[str, float | int | str]]:
        """The calibrated gradient of each row, and how the solver fared."""
        if pool.target is None or pool.target.n == 0:
            raise DataError("gotd needs a target: rows that the pool should come to resemble")
        x = checks.matrix(pool, self.embedding)
        y = checks.matrix(pool.target, self.embedding)
        if pool.n == 0:
            return np.empty(0), {}
        if x.shape[1] != y.shape[1]:
            raise DataError(
                f"column {self.embedding} has {x.shape[1]} numbers a row in the pool and "
                f"{y.shape[1]} in the target"
            )
        if self.normalize:
            x, y = unit_rows(x), unit_rows(y)
        middle = sinkhorn.median_cost(y, x)
        # All points may coincide: then any epsilon gives the same, flat potential.
        epsilon = self.epsilon or (self.relative_epsilon * middle or 1.0)
        found = sinkhorn.solve(
            y,
            x,
            epsilon,
            tolerance=self.tolerance,
            iterations=self.iterations,
            momentum=self.momentum,
            precision=self.precision,
        )
        facts: dict[str, float | int | str] = {
            "epsilon": epsilon,
            "epsilon_over_median_cost": epsilon / middle if middle > 0 else 0.0,
            "transport_cost": found.cost,
            "marginal_error": found.error,
            "iterations": found.iterations,
            "converged": int(found.converged),
        }
        if pool.n == 1:
            return np.zeros(1), facts
        gap: F64 = pool.n / (pool.n - 1) * (found.g - found.g.mean())
        return gap, facts
