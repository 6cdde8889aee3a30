"""The commands that use a subset, and the one that trains a scorer."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tamis.commands import common
from tamis.commands.common import (
    JsonOption,
    ModelOption,
    RecipeOption,
    SeedOption,
    SetOption,
    StoreOption,
    StyleOption,
)


def export(
    to: Annotated[
        str | None, typer.Option(help="Folder or fsspec URL to copy the manifest to.")
    ] = None,
    selection: Annotated[
        str | None, typer.Option(help="Key of the selection or its beginning; default the last.")
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the dataset.")] = "subset",
    store: StoreOption = None,
    recipe: RecipeOption = None,
    setting: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a selection as a training manifest."""
    if recipe is not None:
        loaded = common.recipe_or_flags(recipe, setting, {})
        summary = common.run_until(loaded, store, "export")
        keys, facts = summary.keys, summary.facts("export")
        told = {s: {"manifest": keys[f"{s}/manifest"], **f} for s, f in facts.items()}
    else:
        from tamis.pipelines.single import export_selection

        content = {
            "name": "export",
            "sources": common.stored_sources(store, None),
            "export": {"name": name, "folder": to},
        }
        loaded = common.recipe_or_flags(None, setting, content)
        told = export_selection(common.context(loaded, store), selection)
    common.print_facts(told, as_json)


def tune(
    manifest: Annotated[str | None, typer.Option(help="Manifest folder to train on.")] = None,
    model: ModelOption = None,
    prompt_style: StyleOption = None,
    option: Annotated[
        list[str] | None, typer.Option(help="Of the recipe's tune block: method=full, epochs=3...")
    ] = None,
    seed: SeedOption = 0,
    launch_config: Annotated[
        str | None,
        typer.Option(help="Write a configuration for accelerate: ddp, fsdp2, zero2 or zero3."),
    ] = None,
    processes: Annotated[int, typer.Option(min=2, help="Of the launch configuration.")] = 2,
    out: Annotated[str, typer.Option(help="File of the launch configuration.")] = "launch.yaml",
    store: StoreOption = None,
    recipe: RecipeOption = None,
    setting: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tune a model on a manifest; prints where the adapter or the weights lie."""
    from tamis.errors import RecipeError
    from tamis.trainer import launch

    if launch_config is not None:
        _write_launch(launch_config, processes, out)
        return
    if recipe is not None:
        if launch.processes() > 1:
            raise RecipeError("several processes tune one manifest: give --manifest, no --recipe")
        loaded = common.recipe_or_flags(recipe, setting, {})
        summary = common.run_until(loaded, store, "tune")
        told = {s: {**f} for s, f in summary.facts("tune").items()}
        for subset in told:
            key = summary.keys[f"{subset}/model"]
            told[subset]["model"] = str(summary.store / "models" / key / "model")
    else:
        from pathlib import Path

        from tamis.pipelines.single import tune_manifest

        if not (manifest and model and prompt_style):
            raise RecipeError("tamis tune needs --recipe, or --manifest, --model, --prompt-style")
        content = {
            "name": "tune",
            "seed": seed,
            "sources": {"manifest": {"path": manifest}},
            "models": common.models(model, prompt_style, "float32"),
            "tune": {"model": "lm", **common.options(option)},
        }
        loaded = common.recipe_or_flags(None, setting, content)
        told = tune_manifest(common.context(loaded, store), Path(manifest))
    if launch.rank() == 0:
        common.print_facts(told, as_json)


def evaluate(
    data: Annotated[str | None, typer.Option(help="Held-out rows, any shape ingest reads.")] = None,
    model: ModelOption = None,
    prompt_style: StyleOption = None,
    adapter: Annotated[str | None, typer.Option(help="PEFT adapter folder.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Take only the first rows.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=0, help="0: no generation.")] = 256,
    group_by: Annotated[str, typer.Option(help="Column for figures per group.")] = "source",
    store: StoreOption = None,
    recipe: RecipeOption = None,
    setting: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Evaluate a model on held-out rows: token-mean NLL, exact match, with intervals."""
    from tamis.errors import RecipeError

    if recipe is not None:
        loaded = common.recipe_or_flags(recipe, setting, {})
        told = dict(common.run_until(loaded, store, "evaluate").facts("evaluate"))
    else:
        from tamis.pipelines.single import evaluate_model

        if not (data and model and prompt_style):
            raise RecipeError("tamis evaluate needs --recipe, or --data, --model, --prompt-style")
        models = common.models(model, prompt_style, "float32")
        models["lm"]["adapter"] = adapter
        content = {
            "name": "evaluate",
            "sources": {"heldout": {"path": data}},
            "models": models,
            "tune": {"model": "lm"},
            "evaluate": {
                "path": data,
                "limit": limit,
                "max_new_tokens": max_new_tokens,
                "group_by": group_by,
            },
        }
        loaded = common.recipe_or_flags(None, setting, content)
        told = {"model": evaluate_model(common.context(loaded, store))}
    _print_figures(told, as_json)


def train_scorer(
    data: Annotated[
        list[str], typer.Option(help="Rows with instruction, output and score (1-6) or rank.")
    ],
    model: ModelOption = None,
    prompt_style: StyleOption = None,
    axis: Annotated[str, typer.Option(help="complexity or quality: what the scores say.")] = (
        "quality"
    ),
    template: Annotated[
        str | None, typer.Option(help="Text with {instruction} and {response} before the digit.")
    ] = None,
    heldout: Annotated[
        float, typer.Option(min=1, max=50, help="Percent of the groups to test on.")
    ] = 20.0,
    option: Annotated[
        list[str] | None,
        typer.Option(help="Of the recipe's tune block: epochs=6, options.rank=8..."),
    ] = None,
    seed: SeedOption = 0,
    store: StoreOption = None,
    setting: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a model on your rankings to score rows with `evol`; prints where it lies."""
    from tamis.errors import RecipeError
    from tamis.pipelines import train_scorer as training
    from tamis.scoring import evol

    defaults = {"complexity": evol.COMPLEXITY, "quality": evol.QUALITY}
    if axis not in defaults:
        raise RecipeError(f"--axis {axis}: expected complexity or quality")
    if not (model and prompt_style):
        raise RecipeError("tamis train-scorer needs --model and --prompt-style")
    content = {
        "name": "train_scorer",
        "seed": seed,
        "sources": {"rankings": {"path": data}},
        "models": common.models(model, prompt_style, "float32"),
        "tune": {"model": "lm", **common.options(option)},
    }
    loaded = common.recipe_or_flags(None, setting, content)
    artifact, _ = training.train_scorer(
        common.context(loaded, store), data, axis, template or defaults[axis], heldout
    )
    common.print_facts({"model": str(artifact.path / "model"), **artifact.facts}, as_json)


def _write_launch(kind: str, processes: int, out: str) -> None:
    """Write a configuration for accelerate and say how to use it."""
    from pathlib import Path

    import yaml

    from tamis.storage.files import write_bytes
    from tamis.trainer import launch

    text = yaml.safe_dump(launch.configuration(kind, processes), sort_keys=False)
    write_bytes(Path(out), text.encode())
    print(f"accelerate launch --config_file {out} -m tamis tune --manifest ...")


def _print_figures(told: dict[str, Any], as_json: bool) -> None:
    """Evaluations by name as one table: every figure with its interval, whole and per group."""
    if as_json:
        common.print_json(told)
        return
    rows = []
    for name, facts in told.items():
        for group, figures in {"all": facts, **facts.get("groups", {})}.items():
            rows += [
                {"model": name, "group": group, "figure": figure, **_interval(value)}
                for figure, value in figures.items()
                if isinstance(value, dict) and set(value) == {"value", "low", "high"}
            ]
        rows += [
            {"model": name, "group": "all", "figure": figure, **_interval({"value": value})}
            for figure, value in facts.get("metrics", {}).items()
        ]
    common.table("", rows)


def _interval(value: dict[str, float]) -> dict[str, float | None]:
    return {n: value.get(n) for n in ("value", "low", "high")}
