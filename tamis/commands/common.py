"""Options and output that commands share. Imports nothing heavy."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from tamis.pipelines.context import Context
    from tamis.pipelines.forecast.figures import Forecast
    from tamis.recipe import Recipe

StoreOption = Annotated[
    str | None,
    typer.Option("--store", help="The store; default the recipe's, else ./tamis-store."),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else there.")
]
RecipeOption = Annotated[
    str | None, typer.Option("--recipe", help="Take the settings of this recipe.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change the recipe: a.b=value, as often as needed."),
]
SourceOption = Annotated[
    list[str] | None,
    typer.Option("--source", help="Ingested source to take; default all in the store."),
]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of everything random.")]

ModelOption = Annotated[str | None, typer.Option("--model", help="Model folder or hub id.")]
StyleOption = Annotated[
    str | None, typer.Option("--prompt-style", help="chat or plain; never deduced.")
]
OptionsOption = Annotated[
    list[str] | None, typer.Option("--option", help="Option of the method: name=value.")
]

EngineOption = Annotated[
    str | None, typer.Option("--engine", help="local, or ray: where rows are scored.")
]
WorkersOption = Annotated[
    int | None, typer.Option("--workers", help="Processes or Ray actors that score.")
]
GpusOption = Annotated[
    int | None, typer.Option("--gpus", help="So many workers, each with a GPU of its own.")
]
PlanOption = Annotated[
    bool,
    typer.Option("--plan", help="Only tell what it would do, reuse, take and send elsewhere."),
]

DEFAULT_STORE = "tamis-store"


def print_json(value: Any) -> None:
    """One JSON document on stdout. Numbers that JSON lacks (NaN) become null."""
    import orjson

    options = orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
    sys.stdout.buffer.write(orjson.dumps(value, default=_plain, option=options) + b"\n")


def print_facts(told: Mapping[str, Any], as_json: bool) -> None:
    """Facts as a document, or as tables: one of what stands alone, one for each subset."""
    if as_json:
        print_json(told)
        return
    alone = {k: v for k, v in told.items() if not isinstance(v, dict)}
    if alone:
        table("", [{"what": k, "is": v} for k, v in alone.items()])
    for name, facts in told.items():
        if isinstance(facts, dict):
            table(name, [{"what": k, "is": v} for k, v in facts.items()])


def tell_forecast(found: Forecast, as_json: bool) -> None:
    """What a run would do: as a document, or in lines."""
    from tamis.pipelines.forecast.lines import lines

    told = found.document()
    if as_json:
        print_json(told)
    else:
        typer.echo("\n".join(lines(told)))


def _plain(value: Any) -> Any:
    """What orjson does not know: decimals, bytes and tuples come out of SQL; paths out of us."""
    from decimal import Decimal
    from pathlib import PurePath

    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    return str(value)


def options(given: list[str] | None) -> dict[str, Any]:
    """`--option name=value`, the value read as YAML; `a.b=value` is b inside a."""
    import yaml

    from tamis.errors import RecipeError

    parsed: dict[str, Any] = {}
    for text in given or []:
        name, equals, value = text.partition("=")
        if not equals:
            raise RecipeError(f"--option {text!r}: expected name=value")
        *parts, last = name.split(".")
        inner = parsed
        for part in parts:
            inner = inner.setdefault(part, {})
            if not isinstance(inner, dict):
                raise RecipeError(f"--option {text!r}: {part} has a value already")
        inner[last] = yaml.safe_load(value)
    return parsed


def recipe_or_flags(
    recipe: str | None, settings: list[str] | None, content: Mapping[str, Any]
) -> Recipe:
    """The recipe of the file, or one made from flags."""
    from tamis import recipe as recipes

    if recipe is not None:
        return recipes.load(recipe, settings or [])
    return recipes.build(content, settings or [], where="the flags")


def stored_sources(store: str | None, names: list[str] | None) -> dict[str, Any]:
    """A `sources` block over what the store holds already."""
    from tamis.errors import StoreError
    from tamis.storage.artifact import Store

    root = store or DEFAULT_STORE
    known = Store(root).latest("samples")
    if not known:
        raise StoreError(f"the store {root} has no samples; run tamis ingest first")
    unknown = sorted(set(names or []) - set(known))
    if unknown:
        raise StoreError(
            f"the store {root} has no source {unknown[0]!r}; it has {', '.join(known)}"
        )
    return {name: {"stored": True} for name in names or known}


def models(model: str | None, prompt_style: str | None, dtype: str) -> dict[str, Any]:
    """A `models` block with the one entry `lm`, when flags name a causal model."""
    from pathlib import Path

    if model is None or prompt_style is None:
        return {}
    place = {"path": model} if Path(model).is_dir() else {"hub": model}
    return {"lm": {**place, "prompt_style": prompt_style, "dtype": dtype}}


def context(recipe: Recipe, store: str | None, part: tuple[int, int] | None = None) -> Context:
    """The surroundings of a command: progress and lines on stderr."""
    from tamis import console
    from tamis.pipelines.run import context as make

    return make(recipe, say=console.say, progress=console.progress, store=store, part=part)


def run_until(
    recipe: Recipe, store: str | None, stage: str | None, part: tuple[int, int] | None = None
) -> Any:
    """Run the recipe up to a stage and return the summary."""
    from tamis.pipelines.run import run

    return run(context(recipe, store, part), until=stage)


def engine_settings(engine: str | None, workers: int | None, gpus: int | None) -> list[str]:
    """The flags that say where rows are scored, as settings of the recipe."""
    given = {"engine.name": engine, "engine.workers": workers, "engine.gpus": gpus}
    return [f"{name}={value}" for name, value in given.items() if value is not None]


def part_of(text: str | None) -> tuple[int, int] | None:
    """`2/8` as (2, 8)."""
    import re

    from tamis.errors import RecipeError

    if text is None:
        return None
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    part = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= part[0] <= part[1]:
        raise RecipeError(f"--part {text!r}: expected I/N with 1 <= I <= N, such as 2/8")
    return part


def table(title: str, rows: list[Mapping[str, Any]]) -> None:
    """Print rows as a table on stdout; nothing is cut off when stdout is no terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console() if sys.stdout.isatty() else Console(width=200)
    drawn = Table(title=title or None, title_justify="left")
    for name in rows[0] if rows else ["(no rows)"]:
        drawn.add_column(name, overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(shown(value)) for value in row.values()))
    console.print(drawn)


def shown(value: Any) -> str:
    """A value for people: four significant digits, thousands apart, nothing for null."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1e6 else f"{value:,.0f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)
