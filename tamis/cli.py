"""The command `tamis`. A command imports what it needs when it runs, so that help is instant."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Annotated

import typer

import tamis
from tamis.commands import compare, look, models, novelty, stages, training
from tamis.errors import TamisError

app = typer.Typer(
    name="tamis",
    help="Turn a heap of instruction data into the small subset worth training on.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (
    stages.run,
    stages.ingest,
    stages.score,
    stages.refine,
    stages.select,
    training.export,
    training.tune,
    training.train_scorer,
    training.evaluate,
    compare.compare,
    models.merge,
    models.soup,
    models.lines,
    novelty.novelty,
    stages.schedule,
    look.sql,
    look.explain,
    look.diff,
    look.report,
    look.methods,
    look.doctor,
    look.init,
    look.schema,
    look.demo,
):
    app.command()(command)


@app.callback()
def _root(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and end.", is_eager=True)
    ] = False,
) -> None:
    if version:
        typer.echo(tamis.__version__)
        raise typer.Exit
    together = "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", 1)) > 1
    if together and ctx.invoked_subcommand != "tune":
        name = ctx.invoked_subcommand
        raise TamisError(f"only tamis tune trains in several processes: start tamis {name} alone")


def main() -> None:
    """Run the command; an error of the user's is one line on stderr and exit status 1."""
    # What transformers renames next year is ours to follow, not the user's to read.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        app()
    except TamisError as error:
        print(f"tamis: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("tamis: stopped; what was finished is kept and is reused next time", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)  # the reader of our output has gone, as in `tamis sql ... | head`
