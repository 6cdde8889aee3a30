"""Export: the chosen rows of the pool as a training manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tamis.errors import DataError
from tamis.language.load import identity, load_tokenizer
from tamis.pipelines import plan
from tamis.pipelines.context import Context
from tamis.pipelines.evaluate import Heldout
from tamis.pipelines.pool import TRAINING_COLUMNS, Snapshot
from tamis.recipe import Model
from tamis.storage import manifest_consumers, manifests
from tamis.storage.artifact import Artifact, Maker
from tamis.storage.publish import publish as copy_to

# Raise by hand when the same selection gives another manifest.
VERSION = 3


def export(
    ctx: Context,
    pool: Snapshot,
    selection: Artifact,
    held: Heldout | None,
    *,
    publish: bool = True,
    suffix: str = "_baseline",
) -> tuple[Artifact, bool]:
    """Write the manifest of a selection; returns the artefact and whether it was there already.

    Rows come in the order of the selection; those shown several times in an epoch come again after
    all others, under row ids of their own. Chosen rows whose content is among the held-out rows
    are left out and counted. With `publish` a copy goes to the recipe's `export.folder`, if it
    names one; without, `suffix` follows the manifest's name. Facts: `rows`, `heldout`, `leaked`,
    `content_hash`.
    """
    base = _base(ctx)
    name = (ctx.recipe.export.name or ctx.recipe.name) + ("" if publish else suffix)
    inputs = {
        "version": VERSION,
        "selection": selection.key,
        "heldout": held and held.inputs(),
        "name": name,
        "shard_rows": ctx.recipe.export.shard_rows,
        "model": base and identity(base),
    }

    def make(maker: Maker) -> Mapping[str, Any]:
        return _write(ctx, pool, selection, held, base, name, maker)

    artifact, reused = ctx.store.ensure("manifests", inputs, make, say=ctx.say)
    if publish and ctx.recipe.export.folder is not None:
        found = manifests.read(artifact.path)
        if copy_to(found, ctx.recipe.export.folder):
            ctx.say(f"manifest copied to {ctx.recipe.export.folder}")
    return artifact, reused


def _write(
    ctx: Context,
    pool: Snapshot,
    selection: Artifact,
    held: Heldout | None,
    base: Model | None,
    name: str,
    maker: Maker,
) -> dict[str, Any]:
    rows, leaked = _without(_rows(pool, selection), held)
    if not rows.num_rows:
        raise DataError("the manifest would be empty: no row was selected that is not held out")
    heldout = None if held is None else _heldout(held)
    count = 0 if heldout is None else heldout.num_rows
    about = {
        **_base_facts(base),
        "selection": _selection_facts(ctx, pool, selection),
        # What to train, and how, is the tuned model's to tell: the same rows serve many trainings.
        "method": None,
        "trainer": {},
        "seed": ctx.recipe.seed,
        "heldout": {
            "rows": count,
            "split": "a file, or rows kept from the selection by a hash of their content",
            "leakage": {"rule": "same content", "train_rows_left_out": leaked},
        },
    }
    written = manifests.write(
        maker.folder,
        rows,
        heldout,
        name=name,
        about=about,
        licences=sorted(set(rows["licence"].drop_null().to_pylist())),
        shard_rows=ctx.recipe.export.shard_rows,
    )
    for line in manifest_consumers.told(written.info["other_trainers"]):
        ctx.say(f"other trainers do not take all rows as they are: {line}")
    return {
        "rows": rows.num_rows,
        "heldout": count,
        "leaked": leaked,
        "content_hash": written.content_hash,
    }


def _rows(pool: Snapshot, selection: Artifact) -> pa.Table:
    """The chosen rows in the order chosen, with the columns of a manifest."""
    table = pq.read_table(selection.path / "rows.parquet")
    picks = table.filter(table["kept"]).sort_by("rank")
    ids = picks["id"].combine_chunks()
    rows = _named(pool, ids)
    if "weight" in picks.schema.names:
        rows = rows.set_column(rows.schema.get_field_index("weight"), "weight", picks["weight"])
    rows = rows.append_column("score", picks["gain"].cast(pa.float32()))
    return _shown(rows, picks["repeat"].to_numpy()) if "repeat" in picks.schema.names else rows


def _shown(rows: pa.Table, repeat: np.ndarray) -> pa.Table:
    """Every row as often as it is shown. A copy is a row of its own, so that every trainer sees it:
    its id is that of the sample with ~2, ~3, ... after it."""
    passes = []
    for time in range(1, int(repeat.max(initial=1)) + 1):
        again = rows.filter(pa.array(repeat >= time))
        if time > 1:
            ids = pc.binary_join_element_wise(again["row_id"], f"~{time}", "")
            again = again.set_column(again.schema.get_field_index("row_id"), "row_id", ids)
        passes.append(again)
    return pa.concat_tables(passes)


def _heldout(held: Heldout) -> pa.Table:
    rows = _named(held.pool, held.ids)
    return rows.append_column("score", pa.nulls(rows.num_rows, pa.float32()))


def _named(pool: Snapshot, ids: pa.Array) -> pa.Table:
    """Samples with the names that columns have in a manifest."""
    abilities = [name for name in ("ability",) if name in pool.columns()]
    rows = pool.rows(ids, [*TRAINING_COLUMNS, *abilities])
    n = rows.num_rows
    ability = rows["ability"].cast(pa.string()) if abilities else pa.nulls(n, pa.string())
    return pa.table(
        {
            "row_id": rows["id"],
            **{c: rows[c] for c in ("content_key", "messages", "tools", "source", "licence")},
            "ability": ability,
            "weight": pa.nulls(n, pa.float32()),
        }
    )


def _without(rows: pa.Table, held: Heldout | None) -> tuple[pa.Table, int]:
    """The rows whose content is not held out, and how many were."""
    if held is None:
        return rows, 0
    known = held.rows(["content_key"])["content_key"].combine_chunks()
    leaked = pc.is_in(rows["content_key"], value_set=known)
    return rows.filter(pc.invert(leaked)), pc.sum(leaked).as_py() or 0


def _base(ctx: Context) -> Model | None:
    """The model the manifest is meant for: the one the recipe tunes."""
    tune = ctx.recipe.tune
    return plan.model(ctx.recipe, tune.model, "tune") if tune and tune.model else None


def _base_facts(base: Model | None) -> dict[str, Any]:
    if base is None:
        return {"base_model": None, "tokenizer": None}
    # The name of a local folder, not where it lies.
    name = base.hub or str(base.path).rstrip("/").rpartition("/")[2]
    known = {"id": name, "revision": base.revision}
    template = load_tokenizer(base).chat_template
    sha = hashlib.sha256(template.encode()).hexdigest() if isinstance(template, str) else None
    return {
        "base_model": {**known, "dtype": base.dtype, "identity": identity(base)},
        "tokenizer": {**known, "template_sha256": sha},
    }


def _selection_facts(ctx: Context, pool: Snapshot, selection: Artifact) -> dict[str, Any]:
    """How the rows were chosen, from the seal of the selection."""
    inputs = selection.seal["inputs"]
    choice = inputs.get("select", {})
    return {
        "method": choice.get("method"),
        "params": choice.get("options", {}),
        "budget": {k: v for k, v in choice.get("budget", {}).items() if v is not None},
        "filters": inputs.get("filters", []),
        "signals": inputs.get("signals", {}),
        "seed": inputs.get("seed"),
        "key": selection.key,
        "sources": [
            {"key": key, **ctx.store.get("samples", key).seal["inputs"], "name": name}
            for name, key in sorted(pool.sources.items())
        ],
    }
