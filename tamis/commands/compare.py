"""The command that compares methods."""

from __future__ import annotations

from typing import Annotated

import typer

from tamis.commands import common
from tamis.commands.common import JsonOption, PlanOption, SetOption, StoreOption


def compare(
    recipe: Annotated[str, typer.Argument(help="A recipe with a block compare.")],
    store: StoreOption = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Cells under way at once; default the recipe's.")
    ] = None,
    setting: SetOption = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print Markdown on stdout and nothing else there.")
    ] = False,
    plan: PlanOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compare methods at equal budgets and several seeds; only cells that are missing are run."""
    from tamis import recipe as recipes
    from tamis.errors import RecipeError
    from tamis.pipelines import compare as comparing
    from tamis.pipelines.comparing import told

    if markdown and as_json:
        raise RecipeError("--json and --markdown both want stdout: give one of them")
    loaded = recipes.load(recipe, setting or [])
    if plan:
        from tamis.pipelines.forecast.chain import forecast_comparison

        common.tell_forecast(forecast_comparison(common.context(loaded, store)), as_json)
        return
    found = comparing.compare(common.context(loaded, store), jobs=jobs)
    if as_json:
        about = {"run": found.run_id, "store": str(found.store), "report": found.report}
        counts = {"computed": found.computed, "reused": found.reused}
        common.print_json({**about, **counts, **found.document})
        return
    if markdown:
        typer.echo(told.markdown(found.document), nl=False)
        return
    common.table("", told.rows(found.document))
    for line in told.sentences(found.document):
        typer.echo(line)
    for line in told.warnings(found.document):
        typer.echo(f"warning: {line}")
    for one in found.document["overlap"]:
        common.table(f"overlap at {told.budget(one['budget'])} (Jaccard)", told.overlap_rows(one))
    typer.echo(f"report: {found.report}")
