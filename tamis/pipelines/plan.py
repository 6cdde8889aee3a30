"""What can be checked before any work begins, is checked here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tamis import selectors
from tamis.errors import RecipeError, require
from tamis.language.load import cached
from tamis.pipelines import pool_scores
from tamis.pipelines.select import TOKENS
from tamis.recipe import Model, Recipe, Select, Tune
from tamis.samples import EXTRA
from tamis.scoring import registry
from tamis.scoring.base import Scorer
from tamis.selectors import Selector
from tamis.storage.artifact import Store
from tamis.trainer import job, objectives


def check(recipe: Recipe, store: Store, device: str) -> dict[str, Scorer]:
    """Check a recipe against the methods and the machine; returns the scorers it needs, built.

    Raises `RecipeError` or `MissingPackage` naming what is wrong: unknown methods and options,
    columns no scorer gives, models that are not there, blocks that need another block.
    """
    _check_blocks(recipe, store, device)
    if recipe.engine.name == "ray":
        require("ray", "ray", "the engine ray")
    built = scorers(recipe, device)
    if recipe.select is not None:
        method = selectors.build(recipe.select.method, recipe.select.options)
        wanted = {*method.needs(), *(name for rule in recipe.filters for name in rule.columns)}
        _check_columns(wanted, built, store)
        _check_target(recipe, method)
        if trains_between(recipe.select):
            _check_rounds(recipe, recipe.select)
    for name, entry in recipe.tuned.items():
        if name in recipe.models:
            raise RecipeError(f"models and tuned both have an entry {name!r}: rename one")
        model(recipe, entry.model, f"tuned.{name}")
        _check_trainer(entry, device, scored="scores the pool")
        _check_models(recipe, entry)
        _check_filters(recipe, name, built, store)
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
        if name in recipe.tuned:
            raise RecipeError(f"{where}: {name} is tuned on the pool and serves scores only")
        known = ", ".join(sorted({*recipe.models, *recipe.tuned})) or "none"
        raise RecipeError(f"{where}: models has no entry {name!r}; there is {known}")
    found = recipe.models[name]
    if found.path is not None and not Path(found.path).is_dir():
        raise RecipeError(f"models.{name}: there is no folder {found.path}")
    if found.endpoint is None:
        return found
    if not where.startswith("scores.") and where != "refine.model":
        raise RecipeError(f"{where}: {name} is an endpoint; a model with path or hub is needed")
    cache = found.endpoint.cache or str(Path(recipe.store) / "replies")
    return found.model_copy(update={"endpoint": found.endpoint.model_copy(update={"cache": cache})})


def scorers(recipe: Recipe, device: str) -> dict[str, Scorer]:
    """The scorers of the recipe by column name, and the token counter when something needs it.

    Those of a model that is tuned first have the model it is tuned from: see `tuned`.
    """
    built: dict[str, Scorer] = {}
    later = tuned(recipe)
    for name, entry in recipe.scores.items():
        where = f"scores.{name}"
        if name in later:
            base = recipe.tuned[later[name]].model
            built[name] = scorer(recipe, name, model(recipe, base, where), device)
        # An encoder is no causal model: what is not an entry of models is its path or hub id.
        elif entry.model is None or (
            registry.takes_encoder(entry.scorer or name) and entry.model not in recipe.models
        ):
            built[name] = scorer(recipe, name, entry.model, device)
        else:
            built[name] = scorer(recipe, name, model(recipe, entry.model, where), device)
    if TOKENS not in built and recipe.tune is not None and recipe.tune.model is not None:
        built[TOKENS] = registry.build(
            TOKENS,
            model=model(recipe, recipe.tune.model, "tune"),
            options={"max_length": recipe.tune.max_length},
            device=device,
        )
    return built


def scorer(recipe: Recipe, name: str, given: Model | str | None, device: str) -> Scorer:
    """The scorer of an entry of `scores`, with this model."""
    entry = recipe.scores[name]
    return registry.build(entry.scorer or name, model=given, options=entry.options, device=device)


def tuned(recipe: Recipe) -> dict[str, str]:
    """The scores whose model is tuned first, and the entry of `tuned` of each."""
    return {n: s.model for n, s in recipe.scores.items() if s.model in recipe.tuned}


def target_signals(recipe: Recipe) -> set[str]:
    """The signals that the recipe's method compares its target by."""
    if recipe.select is None:
        return set()
    method = selectors.build(recipe.select.method, recipe.select.options)
    needs = method.target_needs() if hasattr(method, "target_needs") else frozenset()
    return {name.partition(".")[0] for name in needs if "." in name}


def trains_between(choice: Select) -> bool:
    """Whether the method tunes a model between its rounds."""
    return bool(getattr(selectors.get(choice.method), "trains", False))


def _check_rounds(recipe: Recipe, choice: Select) -> None:
    if recipe.tune is None:
        raise RecipeError(f"{choice.method} tunes a model between its rounds: add the block tune:")
    model(recipe, recipe.tune.model, "tune")
    if choice.budget.unit != "rows":
        raise RecipeError(f"{choice.method} takes a budget in rows or percent, not in tokens")


def _check_blocks(recipe: Recipe, store: Store, device: str) -> None:
    if recipe.tune is not None:
        if recipe.select is None:
            raise RecipeError("tune needs a select block: it trains on what was selected")
        if recipe.tune.command is None:
            model(recipe, recipe.tune.model, "tune")
            ours = recipe.evaluate is not None and recipe.evaluate.command is None
            rounds = recipe.select is not None and trains_between(recipe.select)
            _check_trainer(recipe.tune, device, scored="is evaluated" if ours or rounds else None)
            _check_models(recipe, recipe.tune)
        else:
            for name in ("online", "diagnose", "evaluate_every"):
                if getattr(recipe.tune, name) is not None:
                    raise RecipeError(
                        f"tune.{name} works in the bundled trainer: leave it or command out"
                    )
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


def _check_trainer(options: Tune, device: str, *, scored: str | None) -> None:
    """What the trainer can say of its options; and that what asks the tuned model can ask it."""
    method = job.check(options, device)
    if scored is not None and not method.packable:
        raise RecipeError(
            f"tune.method {method.name} leaves virtual tokens, and the model that {scored} cannot "
            "have them here: use another method, or a command of your own to evaluate"
        )


def teacher(recipe: Recipe, options: Tune) -> Model | None:
    """The model that the objective distils from; None where it learns from rows alone."""
    if not objectives.get(options.objective.method).taught:
        return None
    name = options.objective.options.get("teacher")
    return model(recipe, name, f"tune.objective.options.teacher: {options.objective.method}")


def _check_models(recipe: Recipe, options: Tune) -> None:
    """That the models which a training reads beside its own are there and fit it."""
    if options.online is not None and options.online.method == "rho_loss":
        model(recipe, options.online.reference, "tune.online.reference: rho_loss")
    teaching, learning = teacher(recipe, options), model(recipe, options.model, "tune")
    if teaching is not None and cached(teaching) and cached(learning):
        objectives.check_teacher(teaching, learning)


def _check_filters(recipe: Recipe, name: str, built: Mapping[str, Scorer], store: Store) -> None:
    """Rows are filtered by scores, so what is tuned on filtered rows cannot give scores."""
    rules = recipe.tuned[name].filters
    scored = [score for score, model in tuned(recipe).items() if model == name]
    if rules and scored:
        raise RecipeError(
            f"tuned.{name}.filters: scores.{scored[0]} is of this model, and filters read scores; "
            "only the model that refine names takes filters"
        )
    _check_columns({column for rule in rules for column in rule.columns}, built, store)


def _check_target(recipe: Recipe, method: Selector) -> None:
    later = tuned(recipe)
    for name in sorted(target_signals(recipe) & set(later)):
        if recipe.tuned[later[name]].folds > 1:
            raise RecipeError(
                f"scores.{name}: {method.name} compares rows with a target by it, so one model "
                f"must score both: set tuned.{later[name]}.folds to 1"
            )
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
