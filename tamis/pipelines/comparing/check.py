"""What can be checked of a comparison before any work begins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from tamis.errors import RecipeError
from tamis.pipelines import plan, refine
from tamis.pipelines.comparing.cells import Cell, cells, needed, recipe_of
from tamis.pipelines.context import Context
from tamis.pipelines.select import TOKENS
from tamis.recipe import Compare, Contestant, Recipe
from tamis.trainer.evaluate import COMPARED, METRICS

# Which way is better, of the figures of the bundled evaluation.
BETTER = {"nll": "lower", "token_accuracy": "higher", "exact_match": "higher"}


def checked(ctx: Context) -> Recipe:
    """The recipe with its lists of ids read, after everything that can be checked.

    Raises `RecipeError` or `MissingPackage` naming the method and what is wrong.
    """
    block = needed(ctx.recipe)
    for name in ("tune", "evaluate"):
        if getattr(ctx.recipe, name) is None:
            raise RecipeError(f"compare tunes and evaluates every method: add the block {name}:")
    decisive(ctx.recipe)
    recipe = _with_ids(ctx.recipe, block)
    _check_target(recipe)
    refine.check(recipe, ctx.store, ctx.device)
    for cell in _one_a_method(recipe):
        try:
            built = plan.check(recipe_of(recipe, cell), ctx.store, ctx.device)
        except RecipeError as error:
            raise RecipeError(f"{_where(block, cell.method)}: {error}") from error
        if TOKENS not in built:
            raise RecipeError(
                "compare counts tokens: name tune.model, also beside tune.command, or add a score "
                "called tokens"
            )
    return recipe


def decisive(recipe: Recipe) -> tuple[str, str]:
    """The metric that decides, and which way is better. Raises `RecipeError` if it cannot be."""
    block, options = needed(recipe), recipe.evaluate
    if options is None or options.command is not None:
        if block.metric is None or block.better is None:
            raise RecipeError(
                "compare: of the metrics that evaluate.command writes, name the one that decides: "
                "metric: NAME and better: higher (or lower)"
            )
        return block.metric, block.better
    if block.better is not None:
        raise RecipeError("compare.better is for evaluate.command: leave it out")
    metric = block.metric or ("exact_match" if options.max_new_tokens else "nll")
    if metric not in COMPARED:
        raise RecipeError(f"compare.metric {metric!r}: expected one of {', '.join(COMPARED)}")
    if METRICS[metric][1] == "asked" and not options.max_new_tokens:
        raise RecipeError(f"compare.metric {metric} needs evaluate.max_new_tokens above 0")
    return metric, BETTER[metric]


def _one_a_method(recipe: Recipe) -> Sequence[Cell]:
    """The first cell of each method: budgets and seeds change nothing that is checked."""
    first: dict[str, Cell] = {}
    for cell in cells(recipe):
        first.setdefault(cell.method, cell)
    return list(first.values())


def _where(block: Compare, name: str) -> str:
    return f"compare.methods.{name}" if name in block.methods else f"compare: {name}"


def _check_target(recipe: Recipe) -> None:
    """A target is for methods that take one, so one of them must."""
    if recipe.target is None:
        return
    if all(recipe_of(recipe, cell).target is None for cell in _one_a_method(recipe)):
        raise RecipeError("no method of compare takes a target: leave the block target: out")


def _with_ids(recipe: Recipe, block: Compare) -> Recipe:
    lists = {n: _read(n, c) if c.ids is not None else c for n, c in block.methods.items()}
    return with_methods(recipe, lists)


def with_methods(recipe: Recipe, methods: Mapping[str, Contestant]) -> Recipe:
    """The recipe with these methods to compare."""
    block = needed(recipe).model_copy(update={"methods": dict(methods)})
    return recipe.model_copy(update={"compare": block})


def _read(name: str, given: Contestant) -> Contestant:
    """A list of ids as a list, whether it came as one or in a file."""
    where = f"compare.methods.{name}.ids"
    ids = given.ids
    if isinstance(ids, str):
        try:
            lines = Path(ids).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"{where}: cannot read {ids}: expected one id a line") from error
        ids = [line.strip() for line in lines if line.strip()]
    if not ids:
        raise RecipeError(f"{where} lists no id; give one a line")
    twice = [one for one, times in Counter(ids).items() if times > 1]
    if twice:
        raise RecipeError(f"{where}: {twice[0]!r} is listed {ids.count(twice[0])} times; list once")
    return given.model_copy(update={"ids": ids})
