"""The commands that make a subset: run, ingest, score, select, schedule."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tamis.commands import common
from tamis.commands.common import (
    EngineOption,
    GpusOption,
    JsonOption,
    ModelOption,
    OptionsOption,
    PlanOption,
    RecipeOption,
    SeedOption,
    SetOption,
    SourceOption,
    StoreOption,
    StyleOption,
    WorkersOption,
)


def run(
    recipe: Annotated[str, typer.Argument(help="The recipe, a YAML file.")],
    store: StoreOption = None,
    until: Annotated[str | None, typer.Option(help="Stop after this stage.")] = None,
    setting: SetOption = None,
    prefect: Annotated[bool, typer.Option("--prefect", help="Run as a Prefect flow.")] = False,
    engine: EngineOption = None,
    workers: WorkersOption = None,
    gpus: GpusOption = None,
    plan: PlanOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run all stages of a recipe; what the store holds already is reused."""
    from tamis import recipe as recipes
    from tamis.pipelines.summary import document, lines

    where = common.engine_settings(engine, workers, gpus)
    loaded = recipes.load(recipe, [*(setting or []), *where])
    if plan:
        from tamis.pipelines.forecast.chain import forecast

        common.tell_forecast(forecast(common.context(loaded, store), until=until), as_json)
        return
    if prefect:
        from tamis.flows.curate import curate

        summary = curate(loaded.model_dump(), store, until)
    else:
        summary = common.run_until(loaded, store, until)
    if as_json:
        common.print_json(document(summary))
    else:
        typer.echo("\n".join(lines(summary)))


def ingest(
    paths: Annotated[
        list[str] | None,
        typer.Argument(help="Files, folders, globs, fsspec URLs, or hf:NAME[@revision]."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the source in the store.")] = None,
    store: StoreOption = None,
    licence: Annotated[str | None, typer.Option(help="Licence of rows without one.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Take only the first rows.")] = None,
    split: Annotated[str, typer.Option(help="Split of a Hugging Face dataset.")] = "train",
    recipe: RecipeOption = None,
    setting: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read instruction data of any usual shape into the store."""
    from tamis.errors import RecipeError

    if recipe is None and not (paths and name):
        raise RecipeError("tamis ingest needs PATH... and --name, or --recipe")
    source: dict[str, Any] = {"licence": licence, "limit": limit, "split": split}
    hub = [p.removeprefix("hf:") for p in paths or [] if p.startswith("hf:")]
    if hub and len(paths or []) > 1:
        raise RecipeError("one hf:NAME at a time; ingest other paths under another --name")
    source |= {"hf": hub[0]} if hub else {"path": list(paths or [])}
    content = {"name": "ingest", "sources": {name or "": source}}
    loaded = common.recipe_or_flags(recipe, setting, content)
    summary = common.run_until(loaded, store, "ingest")
    facts = {n: _ingested(f) for n, f in summary.facts("ingest").items()}
    if as_json:
        common.print_json(facts if recipe else next(iter(facts.values())))
        return
    rows = [{"source": n, **f, "rejected": _counts(f["rejected"])} for n, f in facts.items()]
    common.table("", rows)


def _ingested(facts: dict[str, Any]) -> dict[str, Any]:
    return {k: facts[k] for k in ("accepted", "rejected", "duplicates", "rows_per_second")}


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {n:,}" for name, n in counts.items()) or "none"


def score(
    scorer: Annotated[
        list[str] | None, typer.Option(help="Scorer, or NAME:SCORER for another column name.")
    ] = None,
    model: ModelOption = None,
    prompt_style: StyleOption = None,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    option: OptionsOption = None,
    source: SourceOption = None,
    store: StoreOption = None,
    recipe: RecipeOption = None,
    setting: SetOption = None,
    engine: EngineOption = None,
    workers: WorkersOption = None,
    gpus: GpusOption = None,
    part: Annotated[
        str | None, typer.Option(help="I/N: only the shards of the I-th of N array jobs.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compute signals of every sample; only rows without a value cost anything."""
    mine = common.part_of(part)
    loaded = common.recipe_or_flags(
        recipe,
        [*(setting or []), *common.engine_settings(engine, workers, gpus)],
        {} if recipe else _score_flags(scorer, model, prompt_style, dtype, option, source, store),
    )
    outcome = common.run_until(loaded, store, "score", mine).outcomes[-1]
    document = {
        "reused": outcome.reused,
        "computed": outcome.computed,
        "seconds": outcome.seconds,
        "signals": {n.removeprefix("signals/"): k for n, k in outcome.keys.items()},
    }
    if as_json:
        common.print_json(document)


def _score_flags(
    scorer: list[str] | None,
    model: str | None,
    prompt_style: str | None,
    dtype: str,
    option: list[str] | None,
    source: list[str] | None,
    store: str | None,
) -> dict[str, Any]:
    from tamis.errors import RecipeError
    from tamis.scoring import registry

    if not scorer:
        raise RecipeError("tamis score needs --scorer or --recipe; tamis methods lists the scorers")
    content: dict[str, Any] = {"name": "score", "sources": common.stored_sources(store, source)}
    content["models"] = common.models(model, prompt_style, dtype)
    scores = {}
    for text in scorer:
        column, _, kind = text.rpartition(":")
        given = "lm" if content["models"] else model
        scores[column or kind] = {
            "scorer": kind,
            "model": model if registry.takes_encoder(kind) else given,
            "options": common.options(option),
        }
    return {**content, "scores": scores}


def refine(
    recipe: Annotated[str, typer.Argument(help="A recipe with a block refine.")],
    store: StoreOption = None,
    setting: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give rows better answers: a new version of the samples that shows before, after and why."""
    from tamis import recipe as recipes

    summary = common.run_until(recipes.load(recipe, setting or []), store, "refine")
    facts = {
        name: {
            "samples": summary.keys[f"samples/{name}"],
            **{k: told[k] for k in ("method", "changed", "actions", "reasons")},
        }
        for name, told in summary.facts("refine").items()
    }
    if as_json:
        common.print_json(facts)
        return
    counted = ("actions", "reasons")
    rows = [
        {"source": n, **f, **{name: _counts(f[name]) for name in counted}} for n, f in facts.items()
    ]
    common.table("", rows)


def select(
    method: Annotated[str | None, typer.Option(help="Selection method.")] = None,
    rows: Annotated[int | None, typer.Option(help="Budget in rows.")] = None,
    percent: Annotated[float | None, typer.Option(help="Budget in per cent of the rows.")] = None,
    tokens: Annotated[int | None, typer.Option(help="Budget in tokens.")] = None,
    supervised_tokens: Annotated[
        int | None, typer.Option(help="Budget in tokens that carry loss.")
    ] = None,
    option: OptionsOption = None,
    drop_duplicates: Annotated[
        bool, typer.Option("--drop-duplicates", help="Leave exact duplicates out.")
    ] = False,
    source: SourceOption = None,
    seed: SeedOption = 0,
    store: StoreOption = None,
    recipe: RecipeOption = None,
    setting: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Pick a subset under a budget."""
    from tamis.errors import RecipeError
    from tamis.pipelines import mixture

    if recipe is None and method is None:
        raise RecipeError("tamis select needs --method or --recipe; tamis methods lists them")
    budget = {
        "rows": rows,
        "percent": percent,
        "tokens": tokens,
        "supervised_tokens": supervised_tokens,
    }
    block = {
        "method": method,
        "options": common.options(option),
        "budget": {unit: value for unit, value in budget.items() if value is not None},
        "drop_duplicates": drop_duplicates,
    }
    sources = {} if recipe else common.stored_sources(store, source)
    loaded = common.recipe_or_flags(
        recipe, setting, {"name": "select", "seed": seed, "sources": sources, "select": block}
    )
    outcome = common.run_until(loaded, store, "select").outcomes[-1]
    facts = {subset: {**f} for subset, f in outcome.facts.items()}
    for subset in facts:
        facts[subset]["selection"] = outcome.keys[f"{subset}/selection"]
    if as_json:
        common.print_json(facts if recipe else facts["chosen"])
        return
    for subset, values in facts.items():
        groups = values.pop("mixture", [])
        common.table(subset, [{"fact": k, "value": v} for k, v in values.items()])
        for line in mixture.lines(groups):
            typer.echo(line)


def schedule(
    recipe: Annotated[str, typer.Argument(help="The recipe, a YAML file.")],
    cron: Annotated[str | None, typer.Option(help="When, as cron: '0 2 * * *'.")] = None,
    interval: Annotated[int | None, typer.Option(min=1, help="Or every so many seconds.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the deployment.")] = None,
    store: StoreOption = None,
    setting: SetOption = None,
) -> None:
    """Run a recipe on a schedule, as a Prefect flow; serves until it is stopped."""
    from tamis.errors import RecipeError
    from tamis.flows.curate import serve

    if (cron is None) == (interval is None):
        raise RecipeError("tamis schedule needs exactly one of --cron and --interval")
    serve(recipe, setting or [], store=store, cron=cron, interval=interval, name=name)
