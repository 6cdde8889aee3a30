"""The cells of a comparison: which there are, and the recipe of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tamis import selectors
from tamis.errors import RecipeError
from tamis.recipe import Budget, Compare, Contestant, Recipe, Select

RANDOM, STRATIFIED, LENGTH, FULL = "random", "stratified", "length", "full"
LANGUAGE = "lang"


@dataclass(frozen=True, slots=True)
class Cell:
    """One selection, tuning and evaluation. The full pool has no budget."""

    method: str
    budget: Budget | None
    seed: int

    def __str__(self) -> str:
        budget = "" if self.budget is None else f", {size(self.budget)}"
        return f"{self.method}{budget}, seed {self.seed}"


def cells(recipe: Recipe) -> list[Cell]:
    """Every cell of the block compare: methods x budgets x seeds, and the full pool x seeds.

    By seed, then budget: what a run was stopped at is whole comparisons with fewer seeds.
    """
    names = [name for name in entrants(recipe) if name != FULL]
    block = needed(recipe)
    return [
        cell
        for seed in block.seeds
        for cell in (
            *(Cell(name, budget, seed) for budget in block.budgets for name in names),
            Cell(FULL, None, seed),
        )
    ]


def entrants(recipe: Recipe) -> dict[str, Contestant]:
    """What is compared by name: the baselines, drawn from all rows that can be trained on, then the
    recipe's methods."""
    strata = ["source", *languages(recipe)[:1]]
    stratified = {"by": strata, "length": "tokens.total"}
    unfiltered: list[object] = []
    baselines = {
        RANDOM: {"method": "random"},
        STRATIFIED: {"method": "stratified", "options": stratified},
        LENGTH: {"method": "top", "options": {"column": "tokens.supervised"}},
        FULL: {"method": "random"},
    }
    made = {
        name: Contestant.model_validate({**given, "filters": unfiltered})
        for name, given in baselines.items()
    }
    return {**made, **needed(recipe).methods}


def recipe_of(recipe: Recipe, cell: Cell) -> Recipe:
    """The recipe of one cell: its method and budget, the seed of everything, no other method."""
    entrant = entrants(recipe)[cell.method]
    method, options = entrant.method, entrant.options
    if entrant.ids is not None:
        method, options = "ids", {"ids": list(entrant.ids), "column": entrant.by}
    if method is None:
        raise RecipeError(f"compare.methods.{cell.method} names no method")
    choice = Select(
        method=method,
        options=dict(options),
        budget=cell.budget or Budget.model_validate({"percent": 100}),
        drop_duplicates=entrant.drop_duplicates,
    )
    takes_target = getattr(selectors.get(method), "target", None) is not None
    own = {
        "seed": cell.seed,
        "select": choice,
        "filters": recipe.filters if entrant.filters is None else entrant.filters,
        "target": recipe.target if takes_target else None,
        "compare": None,
    }
    return recipe.model_copy(update=own)


def languages(recipe: Recipe) -> list[str]:
    """The columns that tell the language of a row, by the scores of the recipe."""
    named = [n for n, entry in recipe.scores.items() if (entry.scorer or n) == LANGUAGE]
    return [f"{name}.code" for name in named]


def needed(recipe: Recipe) -> Compare:
    """The block compare; raises `RecipeError` if the recipe has none."""
    if recipe.compare is None:
        raise RecipeError("the recipe has no block compare: name methods and budgets there")
    return recipe.compare


def size(budget: Budget) -> str:
    """A budget in words: 20,000 tokens."""
    return f"{budget.limit:,.0f} {budget.unit}"


def budget_of(budget: Budget | None) -> Mapping[str, object] | None:
    """A budget as JSON-like values."""
    return None if budget is None else {"size": int(budget.limit), "unit": budget.unit}
