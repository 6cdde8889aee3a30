"""Selection in rounds: pick, tune on what was picked, score it by the tuned model, pick again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.numpy

from tamis.errors import DataError, RecipeError
from tamis.language.load import identity
from tamis.pipelines import evaluate, export, plan, tune
from tamis.pipelines.context import Context
from tamis.pipelines.evaluate import Heldout
from tamis.pipelines.pool import Snapshot
from tamis.recipe import Model
from tamis.selectors import Pool, Selection
from tamis.selectors.kmeans_rounds import KMeansRounds, RoundState
from tamis.storage import files
from tamis.storage.artifact import Artifact, Maker
from tamis.trainer import gap

# Raise by hand when the same inputs give other rounds.
VERSION = 1
STATE = "state.safetensors"
ROWS = "rows.parquet"


@dataclass(frozen=True, slots=True)
class Rounds:
    """What a method that trains between its rounds needs: the recipe's model and how it is tuned,
    the samples, and the rows that are never trained on."""

    ctx: Context
    samples: Snapshot
    held: Heldout | None

    def inputs(self) -> dict[str, Any]:
        """What determines the picks beside the method and the pool, for keys."""
        return {
            "version": [VERSION, gap.VERSION],
            "model": identity(self._base()),
            "tune": tune.settings(self._once()),
            "heldout": self.held and self.held.inputs(),
        }

    def fit(
        self, method: KMeansRounds, pool: Pool, ids: pa.Array, limit: int, *, key: str
    ) -> Selection:
        """The picks of all rounds; row i of the pool has the id `ids[i]`, `key` is the selection's.

        Every step is an artefact that names the one before, so a run that was killed goes on
        behind the last step that came to its end. Each round but the last tunes for one epoch, from
        the same base model, on all rows picked so far, and scores them. Raises `RecipeError` when a
        round would have no row.
        """
        limit = min(limit, pool.n)
        if limit < method.rounds:
            raise RecipeError(
                f"{method.name}: {limit} rows are too few for {method.rounds} rounds; raise the "
                "budget or lower rounds"
            )
        made = self._picked(method, pool, ids, limit, {"selection": key})
        for number in range(1, method.rounds):
            scores = self._scored(method, made, number)
            step = {"selection": key, "before": made.key, "scores": scores.key}
            made = self._picked(method, pool, ids, limit, step)
        found = method.result(_state(made), pool)
        spent = len(found.index)
        told = {"limit": limit, "spent": spent, "shortfall": limit - spent}
        return replace(found, facts={**found.facts, **told})

    def _picked(
        self,
        method: KMeansRounds,
        pool: Pool,
        ids: pa.Array,
        limit: int,
        step: Mapping[str, str],
    ) -> Artifact:
        """The state after the pick of a round, and all rows picked so far as a selection."""
        store = self.ctx.store

        def make(maker: Maker) -> Mapping[str, Any]:
            if "before" in step:
                scored = pq.read_table(store.get("evaluations", step["scores"]).path / ROWS)
                before = _state(store.get("rounds", step["before"]))
                state = method.update(before, scored["score"].to_numpy())
            else:
                seed = self.ctx.recipe.seed
                state = method.start(pool, limit, rng=np.random.default_rng(seed))
            _, state = method.pick(state, pool)
            n = len(state.picked)
            rows = {
                "id": ids.take(pa.array(state.picked)),
                "kept": pa.repeat(True, n),
                "rank": pa.array(np.arange(n, dtype=np.int32)),
                "gain": pa.nulls(n, pa.float64()),
            }
            maker.write_parquet(ROWS, pa.table(rows))
            files.write_bytes(maker.folder / STATE, safetensors.numpy.save(_arrays(state)))
            return {"round": len(state.sizes), "picked": n, "weights": state.weights[-1].tolist()}

        made, _ = store.ensure("rounds", {**step, "version": VERSION}, make, say=self.ctx.say)
        self.ctx.say(
            f"round {made.facts['round']} of {method.rounds}: {made.facts['picked']:,} rows picked"
        )
        return made

    def _scored(self, method: KMeansRounds, made: Artifact, number: int) -> Artifact:
        """The scores of all rows picked so far, in the order picked, by a model tuned on them."""
        ctx, where = self._once(), f"round {number} of {method.rounds}"
        manifest, _ = export.export(
            ctx, self.samples, made, self.held, publish=False, suffix=f"_round{number}"
        )
        tuned, _ = tune.tune(ctx, manifest.path, title=f"tune, {where}")
        inputs = {
            "version": gap.VERSION,
            "round": made.key,
            "tuned": tuned.key,
            "max_new_tokens": method.max_new_tokens,
        }

        def make(maker: Maker) -> Mapping[str, Any]:
            ids = pq.read_table(made.path / ROWS)["id"].combine_chunks()
            table = gap.answer_gap(
                self.samples.rows(ids, ["id", "messages", "tools"]),
                evaluate.tuned_model(self._base(), tuned),
                max_new_tokens=method.max_new_tokens,
                device=ctx.device,
                progress=ctx.progress,
                title=f"score, {where}",
            )
            maker.write_parquet(ROWS, table)
            return {"rows": table.num_rows, "scored": table.num_rows - table["score"].null_count}

        scored, _ = ctx.store.ensure("evaluations", inputs, make, say=ctx.say)
        if not scored.facts["scored"]:
            raise DataError(
                f"{where}: the model tuned on the round answers no row with a text, so there are "
                f"no scores; train it longer: lower tune.rows_per_step, raise tune.learning_rate, "
                "or pick more rows a round"
            )
        return scored

    def _once(self) -> Context:
        """The surroundings with a training of one epoch, as in the paper's rounds."""
        recipe = self.ctx.recipe
        if recipe.tune is None:
            raise RecipeError("select.method trains between its rounds and needs a tune block")
        once = recipe.tune.model_copy(update={"epochs": 1.0})
        return replace(self.ctx, recipe=recipe.model_copy(update={"tune": once}))

    def _base(self) -> Model:
        recipe = self._once().recipe
        return plan.model(recipe, recipe.tune.model if recipe.tune else None, "tune")


def _arrays(state: RoundState) -> dict[str, np.ndarray]:
    names = [field.name for field in fields(RoundState)]
    return {name: np.ascontiguousarray(getattr(state, name)) for name in names}


def _state(made: Artifact) -> RoundState:
    return RoundState(**safetensors.numpy.load_file(made.path / STATE))
