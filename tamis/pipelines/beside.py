"""What training reads beside the manifest: trusted rows, models to compare with or learn from."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from tamis.language.load import identity
from tamis.pipelines import plan
from tamis.pipelines.context import Context
from tamis.pipelines.ingest import ingest_source
from tamis.pipelines.pool import snapshot
from tamis.recipe import Model, Online, Source, Tune
from tamis.storage.artifact import Artifact
from tamis.trainer.given import Given

# No source may have this name in a recipe, so it takes the place of none.
_SAFE = "tune.online.safe"


def inputs(ctx: Context, options: Tune) -> dict[str, Any]:
    """What of it determines the tuned model, for keys: contents, no path and no name."""
    teacher = plan.teacher(ctx.recipe, options)
    taught = {} if teacher is None else {"teacher": identity(teacher)}
    chosen = options.online
    if chosen is None:
        return {"online": None, **taught}
    safe, reference = _safe(ctx, chosen), _reference(ctx, chosen)
    compared = {"safe": safe and safe.key, "reference": reference and identity(reference)}
    return {"online": compared, **taught}


def given(ctx: Context, options: Tune) -> Given:
    """The trusted rows, ingested like any file and pointed to by nobody, and the models."""
    teacher, chosen = plan.teacher(ctx.recipe, options), options.online
    if chosen is None:
        return Given(teacher=teacher)
    safe, rows = _safe(ctx, chosen), None
    if safe is not None:
        pool = snapshot(ctx.store, {_SAFE: safe.key})
        read = pool.rows(pool.ids, ["id", "messages", "tools"]).rename_columns(
            ["row_id", "messages", "tools"]
        )
        rows = read.append_column("weight", pa.nulls(read.num_rows, pa.float32()))
    return Given(rows, _reference(ctx, chosen), teacher)


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
