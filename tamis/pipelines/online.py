"""What an online rule reads beside the manifest: trusted rows, and the model to compare with."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from tamis.language.load import identity
from tamis.pipelines import plan
from tamis.pipelines.context import Context
from tamis.pipelines.ingest import ingest_source
from tamis.pipelines.pool import snapshot
from tamis.recipe import Model, Online, Source
from tamis.storage.artifact import Artifact
from tamis.trainer.online import Given

# No source may have this name in a recipe, so it takes the place of none.
_SAFE = "tune.online.safe"


def inputs(ctx: Context, chosen: Online | None) -> dict[str, Any] | None:
    """What of it determines the tuned model, for keys: contents, no path and no name."""
    if chosen is None:
        return None
    safe, reference = _safe(ctx, chosen), _reference(ctx, chosen)
    return {"safe": safe and safe.key, "reference": reference and identity(reference)}


def given(ctx: Context, chosen: Online | None) -> Given:
    """The trusted rows, ingested like any file and pointed to by nobody, and the model."""
    if chosen is None:
        return Given()
    safe, rows = _safe(ctx, chosen), None
    if safe is not None:
        pool = snapshot(ctx.store, {_SAFE: safe.key})
        read = pool.rows(pool.ids, ["id", "messages", "tools"]).rename_columns(
            ["row_id", "messages", "tools"]
        )
        rows = read.append_column("weight", pa.nulls(read.num_rows, pa.float32()))
    return Given(rows, _reference(ctx, chosen))


def _safe(ctx: Context, chosen: Online) -> Artifact | None:
    if chosen.safe is None:
        return None
    source = Source(path=chosen.safe)
    artifact, _ = ingest_source(ctx.store, _SAFE, source, say=ctx.say, progress=ctx.progress)
    return artifact


def _reference(ctx: Context, chosen: Online) -> Model | None:
    if chosen.reference is None:
        return None
    return plan.model(ctx.recipe, chosen.reference, "tune.online.reference")
