"""The command `tamis novelty`."""

from __future__ import annotations

from typing import Annotated

import typer

from tamis.commands import common
from tamis.commands.common import JsonOption, SeedOption, SourceOption, StoreOption, StyleOption


def novelty(
    base: Annotated[str, typer.Option(help="The model that was tuned: folder or hub id.")],
    tuned: Annotated[str, typer.Option(help="What became of it: an adapter's or model's folder.")],
    prompt_style: StyleOption = None,
    source: SourceOption = None,
    store: StoreOption = None,
    texts: Annotated[int, typer.Option(help="Texts to draw.")] = 100,
    start: Annotated[str, typer.Option(help="An instruction that all texts answer.")] = "",
    most: Annotated[int, typer.Option("--max-tokens", help="Most tokens of a text.")] = 256,
    least: Annotated[int, typer.Option("--min-tokens", help="Fewest tokens of a text.")] = 32,
    alpha: Annotated[
        float, typer.Option(help="Tokens below this share of the likeliest are out.")
    ] = 0.1,
    gamma: Annotated[float, typer.Option(help="Weight of the base.")] = 1.0,
    together: Annotated[int, typer.Option(help="Texts drawn before the base learns them.")] = 4,
    learning_rate: Annotated[
        float, typer.Option(help="Of the base; 0 keeps it as it is (static).")
    ] = 1e-3,
    markdown: Annotated[str | None, typer.Option(help="Also write a page of Markdown.")] = None,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Tell what is new in the data a model was tuned on, by texts it likes more than its base."""
    from pathlib import Path

    from tamis.errors import RecipeError
    from tamis.language.contrast import Rule
    from tamis.pipelines import novelty as contrasts
    from tamis.storage.artifact import Store
    from tamis.storage.files import read_json, write_bytes

    if not prompt_style:
        raise RecipeError("tamis novelty needs --prompt-style chat or plain")
    root = store or common.DEFAULT_STORE
    with_rows = bool(source) or bool(Store(root).latest("samples"))
    stored = common.stored_sources(root, source) if with_rows else {"none": {"stored": True}}
    content = {
        "name": "novelty",
        "seed": seed,
        "sources": stored,
        "models": common.models(base, prompt_style, "float32"),
    }
    ctx = common.context(common.recipe_or_flags(None, None, content), root)
    model = ctx.recipe.models["lm"]
    artifact, _ = contrasts.novelty(
        ctx,
        model,
        contrasts.tuned_from(model, tuned),
        contrasts.source_keys(ctx) if with_rows else {},
        contrasts.Novelty(texts, start, Rule(alpha, gamma, least, most), together, learning_rate),
    )
    told = read_json(artifact.path / "novelty.json")
    page = contrasts.markdown(told)
    if markdown is not None:
        write_bytes(Path(markdown), page.encode())
    if as_json:
        common.print_json({"novelty": str(artifact.path), **told})
    else:
        typer.echo(page)
