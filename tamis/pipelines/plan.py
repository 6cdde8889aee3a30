"""What can be checked before any work begins, is checked here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tamis import selectors
from tamis.errors import RecipeError
from tamis.pipelines import pool_scores
from tamis.pipelines.select import TOKENS
from tamis.recipe import Model, Recipe
from tamis.samples import EXTRA
from tamis.scoring import registry
from tamis.scoring.base import Scorer
from tamis.selectors import Selector
from tamis.storage.artifact import Store


def check(recipe: Recipe, store: Store, device: str) -> dict[str, Scorer]:
    """Check a recipe against the methods and the machine; returns the scorers it needs, built.

    Raises `RecipeError` or `MissingPackage` naming what is wrong: unknown methods and options,
    columns no scorer gives, models that are not there, blocks that need another block.
    """
    _check_blocks(recipe, store)
    built = scorers(recipe, device)
    if recipe.select is not None:
        method = selectors.build(recipe.select.method, recipe.select.options)
        wanted = set(method.needs()) | {f.column for f in recipe.filters}
        _check_columns(wanted, built, store)
        _check_target(recipe, method)
    whole = {name: s for name, s in built.items() if registry.of_the_pool(s)}
    pool_scores.ordered(whole)
    for scorer in whole.values():
        _check_columns(set(scorer.needs()), built, store)
    for name, source in recipe.sources.items():
        if source.stored and name not in store.latest("samples"):
            raise RecipeError(f"sources.{name}: the store {store.root} has no source of this name")
    return built


def model(recipe: Recipe, name: str | None, where: str) -> Model:
    """The entry of `models` that `where` names."""
    if name is None:
        raise RecipeError(f"{where} needs a model: the name of an entry of models")
    if name not in recipe.models:
        known = ", ".join(sorted(recipe.models)) or "none"
        raise RecipeError(f"{where}: models has no entry {name!r}; it has {known}")
    found = recipe.models[name]
    if found.path is not None and not Path(found.path).is_dir():
        raise RecipeError(f"models.{name}: there is no folder {found.path}")
    return found


def scorers(recipe: Recipe, device: str) -> dict[str, Scorer]:
    """The scorers of the recipe by column name, and the token counter when something needs it."""
    built: dict[str, Scorer] = {}
    for name, entry in recipe.scores.items():
        kind = entry.scorer or name
        where = f"scores.{name}"
        # An encoder is no causal model: what is not an entry of models is its path or hub id.
        given = entry.model
        if given is not None and (not registry.takes_encoder(kind) or given in recipe.models):
            built[name] = registry.build(
                kind, model=model(recipe, given, where), options=entry.options, device=device
            )
        else:
            built[name] = registry.build(kind, model=given, options=entry.options, device=device)
    if TOKENS not in built and recipe.tune is not None and recipe.tune.model is not None:
        built[TOKENS] = registry.build(
            TOKENS,
            model=model(recipe, recipe.tune.model, "tune"),
            options={"max_length": recipe.tune.max_length},
            device=device,
        )
    return built


def _check_blocks(recipe: Recipe, store: Store) -> None:
    if recipe.tune is not None:
        if recipe.select is None:
            raise RecipeError("tune needs a select block: it trains on what was selected")
        if recipe.tune.command is None:
            model(recipe, recipe.tune.model, "tune")
    if recipe.evaluate is not None and recipe.tune is None:
        raise RecipeError("evaluate needs a tune block: it evaluates what was tuned")
    if recipe.select is not None and recipe.tune is None:
        budget = recipe.select.budget
        counted = budget.tokens is not None or budget.supervised_tokens is not None
        known = {*recipe.scores, *store.latest("signals")}
        if counted and TOKENS not in known:
            raise RecipeError(
                "a budget in tokens needs to know the tokenizer: name a model in tune:, "
                "or add a score called tokens"
            )


def _check_target(recipe: Recipe, method: Selector) -> None:
    kind = getattr(method, "target", None)
    if kind == "required" and recipe.target is None:
        raise RecipeError(
            f"{method.name} needs a target: add the block target: with a path to rows that the "
            "selection should come to resemble"
        )
    if kind is None and recipe.target is not None:
        raise RecipeError(f"{method.name} takes no target: leave the block target: out")


def _check_columns(wanted: set[str], built: Mapping[str, Scorer], store: Store) -> None:
    stored = store.latest("signals")
    for column in sorted(wanted):
        signal, dot, field = column.partition(".")
        if not dot or signal == EXTRA or (signal in stored and signal not in built):
            continue
        if signal not in built:
            known = ", ".join(sorted(built)) or "none"
            raise RecipeError(
                f"the column {column} needs a score {signal!r}, which the recipe does not name "
                f"(it has {known})"
            )
        if field not in built[signal].fields:
            raise RecipeError(
                f"the column {column} does not exist: {signal} gives "
                f"{', '.join(built[signal].fields)}"
            )
