"""What a run would send to other machines, or fetch from them."""

from __future__ import annotations

import os
from collections.abc import Iterator

from tamis.recipe import Recipe, Source


def leaving(recipe: Recipe) -> list[str]:
    """A line for everything that crosses the border of this machine, by what it is for."""
    found = [*_sources(recipe), *_models(recipe), *_out(recipe)]
    return list(dict.fromkeys(found))


def remote(source: Source) -> str | None:
    """Where the rows of a source lie, if not on this machine."""
    if source.hf is not None and not os.path.isdir(source.hf.removeprefix("hf:")):
        return f"hf:{source.hf.removeprefix('hf:')}"
    return next((path for path in source.paths if is_remote(path)), None)


def is_remote(path: str) -> bool:
    """Whether a path is a URL of another machine."""
    return "://" in path and not path.startswith(("file://", "local://"))


def _sources(recipe: Recipe) -> Iterator[str]:
    sources = {f"sources.{name}": source for name, source in recipe.sources.items()}
    if recipe.target is not None:
        sources["target"] = recipe.target
    evaluate = recipe.evaluate
    if evaluate is not None and evaluate.path is not None:
        sources["evaluate"] = Source(path=evaluate.path)
    for name, source in sources.items():
        place = remote(source)
        if place is not None:
            yield f"{name}: rows are fetched from {place}"


def _models(recipe: Recipe) -> Iterator[str]:
    used = {f"scores.{name}": score.model for name, score in recipe.scores.items()}
    used |= {f"tuned.{name}": entry.model for name, entry in recipe.tuned.items()}
    if recipe.tune is not None:
        used["tune"] = recipe.tune.model
        used["tune.objective"] = recipe.tune.objective.options.get("teacher")
        if recipe.tune.online is not None:
            used["tune.online"] = recipe.tune.online.reference
    if recipe.refine is not None:
        used |= {"refine": recipe.refine.model, "refine.judge": recipe.refine.judge}
    for where, name in used.items():
        if name is None or name in recipe.tuned:
            continue
        model = recipe.models.get(name)
        if model is None:
            if not os.path.isdir(name):
                yield f"{where}: the encoder {name} comes from the hub, if it is not cached"
        elif model.endpoint is not None:
            yield (
                f"{where}: texts of rows are sent to {model.endpoint.url} "
                f"({model.endpoint.model}), but for replies that are cached"
            )
        elif model.hub is not None:
            yield f"{where}: the model {model.hub} comes from the hub, if it is not cached"


def _out(recipe: Recipe) -> Iterator[str]:
    folder = recipe.export.folder
    if recipe.select is not None and folder is not None:
        kind = "" if is_remote(folder) else ", a folder outside the store"
        yield f"export: the chosen rows are copied to {folder}{kind}"
    for block in ("tune", "evaluate"):
        command = getattr(getattr(recipe, block), "command", None)
        if command is not None:
            yield f"{block}: a command of yours sees rows or models: {command}"
    if recipe.engine.name == "ray" and "RAY_ADDRESS" in os.environ:
        yield f"engine: texts of rows go to the Ray cluster at {os.environ['RAY_ADDRESS']}"
