"""One stage by itself, on what flags name instead of on what an earlier stage left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tamis.errors import RecipeError, StoreError
from tamis.pipelines import evaluate as evaluation
from tamis.pipelines import export as exporting
from tamis.pipelines import tune as tuning
from tamis.pipelines.context import Context
from tamis.pipelines.ingest import ingest_source
from tamis.pipelines.pool import snapshot
from tamis.recipe import Source
from tamis.storage.artifact import Artifact, Store


def export_selection(ctx: Context, key: str | None) -> dict[str, Any]:
    """Export the selection whose key begins with `key`, by default the last one chosen."""
    selection = _selection(ctx.store, key)
    pool = snapshot(ctx.store, dict(selection.seal["inputs"]["samples"]))
    artifact, _ = exporting.export(ctx, pool, selection, None)
    return {"manifest": artifact.key, "path": str(artifact.path), **artifact.facts}


def tune_manifest(ctx: Context, folder: Path) -> dict[str, Any]:
    """Tune the recipe's model on a manifest folder."""
    artifact, _ = tuning.tune(ctx, folder)
    return {"model": str(artifact.path / "model"), **artifact.facts}


def evaluate_model(ctx: Context) -> dict[str, Any]:
    """Evaluate the recipe's model, as it is, on the recipe's held-out file."""
    evaluate = ctx.recipe.evaluate
    if evaluate is None:
        raise RecipeError("the recipe has no evaluate block")
    source = Source(path=evaluate.path, limit=evaluate.limit)
    artifact, _ = ingest_source(ctx.store, "heldout", source, say=ctx.say, progress=ctx.progress)
    pool = snapshot(ctx.store, {"heldout": artifact.key})
    result, _ = evaluation.evaluate(ctx, None, evaluation.Heldout(pool, pool.ids))
    return result.facts


def _selection(store: Store, key: str | None) -> Artifact:
    key = key or store.latest("selections").get("chosen")
    if key is None:
        raise StoreError(f"the store {store.root} has no selection yet; run tamis select")
    found = [a for a in store.all("selections") if a.key.startswith(key)]
    if len(found) != 1:
        many = "no selection's" if not found else "more than one selection's"
        raise StoreError(f"{key!r} is the beginning of {many} key in the store {store.root}")
    return found[0]
