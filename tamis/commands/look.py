"""The commands that look: sql, explain, diff, report, methods, doctor, init, schema; the demo."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tamis.commands import common
from tamis.commands.common import DEFAULT_STORE, JsonOption, StoreOption


def sql(
    query: Annotated[str, typer.Argument(help="One SELECT over the views of the store.")],
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask the store: views samples, signals, selections, kept, dropped, and more (SHOW TABLES)."""
    from tamis.storage.catalogue import open_store

    rows = open_store(store or DEFAULT_STORE).sql(query).to_pylist()
    if as_json:
        common.print_json(rows)
    else:
        common.table("", rows)


def explain(
    sample: Annotated[
        str, typer.Argument(help="Id of a sample or its beginning; or FILE:LINE of a rejected row.")
    ],
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell why a sample was kept, dropped or rejected."""
    from tamis.pipelines.explain import document, lines
    from tamis.storage.catalogue import open_store

    told = document(open_store(store or DEFAULT_STORE), sample)
    if as_json:
        common.print_json(told)
    else:
        typer.echo("\n".join(lines(told)))


def diff(
    before: Annotated[str, typer.Argument(help="A run: its id, latest, or latest~1.")] = "latest~1",
    after: Annotated[str, typer.Argument(help="Another run.")] = "latest",
    store: StoreOption = None,
    threshold: Annotated[
        float, typer.Option(min=0, help="Standard deviations by which a value counts as moved.")
    ] = 0.1,
    as_json: JsonOption = False,
) -> None:
    """Tell which rows came into the subset and which went out between two runs, and why."""
    from tamis.pipelines.diff import diff as found
    from tamis.pipelines.diff_lines import lines
    from tamis.storage.artifact import Store

    told = found(Store(store or DEFAULT_STORE), before, after, threshold=threshold)
    if as_json:
        common.print_json(told)
    else:
        typer.echo("\n".join(lines(told)))


def report(
    store: StoreOption = None,
    run: Annotated[str | None, typer.Option(help="Id of the run; default the last.")] = None,
    out: Annotated[str | None, typer.Option(help="Where to write the page.")] = None,
    no_text: Annotated[
        bool, typer.Option("--no-text", help="No text of the data, nor a name made of it.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write the report of a run: one HTML page that opens from disk."""
    from tamis.pipelines.report import write

    path = write(store or DEFAULT_STORE, run_id=run, out=out, texts=not no_text)
    if as_json:
        common.print_json({"report": str(path)})
    else:
        typer.echo(str(path))


def methods(
    name: Annotated[str | None, typer.Argument(help="Only this one.")] = None,
    trainer: Annotated[
        bool, typer.Option("--trainer", help="What the trainer has: methods, objectives and more.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """List every scorer, selector and online rule: what it does and costs, when not to use it."""
    from tamis.pipelines.methods import catalogue

    found = catalogue(name, trainer=trainer)
    if as_json:
        common.print_json(found)
        return
    for kind, (title, columns) in _METHODS.items():
        rows = [{c: m[f] for c, f in columns.items()} for m in found if m["kind"] == kind]
        if rows:
            common.table(title, rows)


_TOLD = {"name": "name", "what it does": "sentence", "needs": "needs"}
_AVOID = {"when not to use it": "avoid"}
# Of each kind of method, the title of its table, and its columns by the fields they show.
_METHODS: dict[str, tuple[str, dict[str, str]]] = {
    "scorer": ("scorers", {**_TOLD, "text": "view", "cost per 100k rows": "cost", **_AVOID}),
    "selector": ("selectors", {**_TOLD, "cost per 100k rows": "cost", **_AVOID}),
    "method": (
        "tuning methods",
        {
            "name": "name",
            "what is trained": "sentence",
            "leaves": "leaves",
            "trainable %": "trainable",
            "learning rate": "learning_rate",
            "packable": "packable",
            "when not to use it": "avoid",
            "source": "source",
        },
    ),
    "objective": ("objectives", {**_TOLD, "cost": "cost", **_AVOID}),
    "optimizer": ("optimizers", {**_TOLD, "options": "options"}),
    "online": ("online selection", {**_TOLD, "cost": "cost", **_AVOID}),
}


def doctor(store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Tell what is installed, which device is used, and whether the store is whole."""
    from tamis.pipelines.doctor import examine

    told = examine(store or DEFAULT_STORE)
    if as_json:
        common.print_json(told)
        return
    for part, facts in told.items():
        common.table(part, [{"what": k, "is": v} for k, v in facts.items()])


def init(
    path: Annotated[str, typer.Argument(help="Where to write the recipe.")] = "recipe.yaml",
) -> None:
    """Write a commented recipe to start from."""
    from importlib import resources
    from pathlib import Path

    from tamis.errors import RecipeError

    target = Path(path)
    if target.exists():
        raise RecipeError(f"{target} exists already; name another file")
    target.write_text(resources.files("tamis").joinpath("recipe.yaml").read_text("utf-8"), "utf-8")
    typer.echo(str(target))


def schema() -> None:
    """Print the JSON schema of recipes, for editors."""
    from tamis.recipe import Recipe

    common.print_json(Recipe.model_json_schema())


def demo(
    folder: Annotated[str, typer.Option(help="Where the demo works.")] = "tamis-demo",
    as_json: JsonOption = False,
) -> None:
    """Run the whole chain on bundled data, offline, in a few minutes on two cores."""
    from pathlib import Path

    from tamis import console
    from tamis.demo.run import demo as run_demo
    from tamis.demo.show import show

    told: dict[str, Any] = run_demo(Path(folder), say=console.say, progress=console.progress)
    if as_json:
        common.print_json(told)
    else:
        show(told)
