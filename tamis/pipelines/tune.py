"""Tuning: a model trained on a manifest, by the bundled trainer or by a command."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tamis.errors import RecipeError
from tamis.language.load import identity
from tamis.pipelines import beside, command, plan
from tamis.pipelines.context import Context
from tamis.recipe import Model, Tune
from tamis.storage import manifests
from tamis.storage.artifact import Artifact, Maker, key_of
from tamis.storage.manifests import Manifest
from tamis.trainer import launch, methods
from tamis.trainer.job import VERSION, named
from tamis.trainer.tune import tune as train

# The folder of a models artefact that holds the adapter or the weights.
MODEL = "model"
# Of a train report, what is too long for a seal.
_LONG = ("history", "heldout_history", "packages")
Make = Callable[[Maker], Mapping[str, Any]]


def tune(ctx: Context, manifest: Path, *, title: str = "tune") -> tuple[Artifact, bool]:
    """Tune the recipe's model on a manifest folder; returns the artefact and whether it was there.

    The key holds the content of the manifest's training rows, not how they lie in files, and the
    model by the hash of its weights. Facts: those of the train report, or the metrics that a
    command wrote. Among processes that train together each is called with the same; the first
    makes the artefact, the others train with it.
    """
    options = _options(ctx)
    if options.command is not None and launch.processes() > 1:
        raise RecipeError("tune.command starts its processes itself: start tamis in one process")
    data = manifests.read(manifest)
    base = plan.model(ctx.recipe, options.model, "tune") if options.model else None
    given = inputs(ctx, data)

    def make(maker: Maker) -> Mapping[str, Any]:
        if options.command is not None:
            return _by_command(options.command, data, maker)
        return _trained(ctx, _needed(base), options, data, maker, title)

    with launch.joined(ctx.device):
        if launch.rank() == 0:
            return _led(ctx, given, make)
        return _followed(ctx, given, make)


def inputs(ctx: Context, data: Manifest) -> dict[str, Any]:
    """What determines the model tuned on a manifest, for its key."""
    options = _options(ctx)
    base = plan.model(ctx.recipe, options.model, "tune") if options.model else None
    return {
        "train": data.content_hash,
        "model": base and identity(base),
        **settings(ctx),
        **_watched(options, data),
    }


def _led(ctx: Context, inputs: Mapping[str, Any], make: Make) -> tuple[Artifact, bool]:
    """The artefact, made or found by the first process, which tells the others what it does."""

    def told(maker: Maker) -> Mapping[str, Any]:
        launch.agreed(1, ctx.device)
        return make(maker)

    artifact, reused = ctx.store.ensure("models", inputs, told, say=ctx.say)
    if reused:
        launch.agreed(0, ctx.device)
    launch.wait()
    return artifact, reused


def _followed(ctx: Context, inputs: Mapping[str, Any], make: Make) -> tuple[Artifact, bool]:
    """The artefact that the first process made or found; this one helped, without the lock."""
    key = key_of("models", inputs)
    made = launch.agreed(0, ctx.device)
    if made:
        folder = ctx.store.folder("models", key)
        make(Maker(folder.with_name(f"{key}.partial"), key))
    launch.wait()
    return ctx.store.get("models", key), not made


def settings(ctx: Context) -> dict[str, Any]:
    """What determines a tuned model beside its rows and the model it is tuned from, for keys."""
    options = _options(ctx)
    if options.command is not None:
        return {"seed": ctx.recipe.seed, "command": options.command}
    return {"seed": ctx.recipe.seed, **_ours(options), **beside.inputs(ctx, options)}


def _watched(options: Tune, data: Manifest) -> dict[str, Any]:
    """The held-out rows determine the model where the best one on them is kept."""
    if options.command is not None or options.evaluate_every is None:
        return {}
    return {"heldout": data.info["heldout_content_hash"]}


def _ours(options: Tune) -> dict[str, Any]:
    return {
        "options": {**named(options), "learning_rate": methods.learning_rate(options)},
        "version": [VERSION, methods.get(options.method).version],
    }


def _trained(
    ctx: Context, base: Model, options: Tune, data: Manifest, maker: Maker, title: str
) -> dict[str, Any]:
    report = train(
        data.rows(),
        base,
        options,
        seed=ctx.recipe.seed,
        device=ctx.device,
        folder=maker.folder,
        say=ctx.say,
        progress=ctx.progress,
        title=title,
        given=beside.given(ctx, options),
        heldout=data.rows("heldout") if options.evaluate_every else None,
    )
    return {name: value for name, value in report.items() if name not in _LONG}


def _by_command(line: str, data: Manifest, maker: Maker) -> dict[str, Any]:
    start = time.monotonic()
    places = {"manifest": str(data.folder.resolve()), "out": str((maker.folder / MODEL).resolve())}
    metrics = command.run(line, places, where="tune")
    return {"method": "command", "metrics": metrics, "seconds": time.monotonic() - start}


def _options(ctx: Context) -> Tune:
    if ctx.recipe.tune is None:
        raise RecipeError("the recipe has no tune block")
    return ctx.recipe.tune


def _needed(base: Model | None) -> Model:
    if base is None:
        raise RecipeError("tune needs a model: the name of an entry of models")
    return base


def left_in(folder: Path, base: Model) -> Model:
    """What training has left in a folder: an adapter on the base model, or weights of its own."""
    if (folder / "adapter_config.json").is_file():
        return base.model_copy(update={"adapter": str(folder)})
    return base.model_copy(update={"path": str(folder), "hub": None, "revision": None})
