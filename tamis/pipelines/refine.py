"""Refining: a new version of the samples in which some rows have better answers."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tamis import samples
from tamis.errors import RecipeError
from tamis.pipelines import plan, pretune
from tamis.pipelines.columns import Columns
from tamis.pipelines.context import Context
from tamis.pipelines.refined_rows import OUTCOMES, refined, refinements
from tamis.recipe import Model, Recipe
from tamis.refiners import registry
from tamis.refiners.base import Advance, Refined, Refiner, Row
from tamis.storage import files
from tamis.storage.artifact import Artifact, Maker, Store, key_of

# Raise by hand when the same outcomes give another table.
VERSION = 1
# What a kill may cost, in rows that a model has looked at.
CHUNK_ROWS = 64
_FACTS = "facts.json"


def check(recipe: Recipe, store: Store, device: str) -> None:
    """Raise `RecipeError` when the block `refine` cannot work: models, options, columns."""
    block = recipe.refine
    if block is None:
        return
    if block.model in recipe.tuned and recipe.tuned[block.model].folds > 1:
        raise RecipeError(
            f"refine.model: one model writes all answers, so tuned.{block.model}.folds must be 1"
        )
    known = {*recipe.scores, *store.latest("signals")}
    for column in sorted(needs(recipe, device)):
        signal, dot, _ = column.partition(".")
        if dot and signal not in known:
            raise RecipeError(
                f"{block.method} reads {column}: add a score called {signal}, or name another "
                "column in its options"
            )


def refine(ctx: Context, columns: Columns, heldout: np.ndarray) -> dict[str, tuple[Artifact, bool]]:
    """Refine every source; its new version by name, and whether it was there already.

    Rows marked in `heldout` stay as they are: what is judged by must not be written by a model.
    Each version holds all rows of its source, those that no one looked at byte for byte, and
    `refinements-*.parquet`. What a killed run had finished is not asked again.
    """
    found = versions(ctx, _model(ctx, columns, heldout), columns, heldout)
    return {name: version.ensure() for name, version in found.items()}


def versions(
    ctx: Context, model: Model, columns: Columns, heldout: np.ndarray
) -> dict[str, Version]:
    """The refined version of every source by name, not made yet; `model` writes the answers."""
    refiner = _built(ctx.recipe, model, ctx.device)
    needed = {name: columns.values(name) for name in sorted(refiner.needs())}
    numbers = {name: np.asarray(values) for name, values in needed.items()}
    standing, looked = refiner.standing(numbers, len(columns.pool))
    looked &= ~heldout
    standing[heldout] = "held_out"
    return {
        name: Version(ctx, refiner, ctx.store.get("samples", key), columns, standing, looked)
        for name, key in columns.pool.sources.items()
    }


def needs(recipe: Recipe, device: str) -> frozenset[str]:
    """The columns the refiner of the recipe reads, and those its model's rows are filtered by."""
    block = recipe.refine
    entry = recipe.tuned.get(block.model) if block else None
    rules = entry.filters if entry else []
    filtered = {column for rule in rules for column in rule.columns}
    return frozenset({*_built(recipe, untuned(recipe), device).needs(), *filtered})


def ingested(store: Store, artifact: Artifact) -> Artifact:
    """The samples as they were ingested, of a version that was refined."""
    before = artifact.seal["inputs"].get("refined_from")
    return artifact if before is None else ingested(store, store.get("samples", before))


def untuned(recipe: Recipe) -> Model:
    """The model that writes, or the one it is tuned from."""
    block = recipe.refine
    name = block.model if block else None
    if name in recipe.tuned:
        return plan.model(recipe, recipe.tuned[name].model, f"tuned.{name}")
    return plan.model(recipe, name, "refine.model")


def _model(ctx: Context, columns: Columns, heldout: np.ndarray) -> Model:
    name = ctx.recipe.refine.model if ctx.recipe.refine else ""
    if name not in ctx.recipe.tuned:
        return untuned(ctx.recipe)
    return pretune.models(ctx, columns, name, heldout)[0]


def _built(recipe: Recipe, model: Model, device: str) -> Refiner:
    block = recipe.refine
    if block is None:
        raise RecipeError("the recipe has no block refine")
    judge = plan.model(recipe, block.judge, "refine.judge") if block.judge else untuned(recipe)
    return registry.build(
        block.method, model=model, judge=judge, options=block.options, device=device
    )


@dataclass(frozen=True, slots=True)
class Version:
    """The refined version of one source. `standing` and `looked` are by row of the pool."""

    ctx: Context
    refiner: Refiner
    source: Artifact
    columns: Columns
    standing: np.ndarray
    looked: np.ndarray

    def ensure(self) -> tuple[Artifact, bool]:
        """The artefact, made if it is not there."""
        return self.ctx.store.ensure("samples", self._inputs(), self._make, say=self.ctx.say)

    @property
    def key(self) -> str:
        """The key of the artefact, whether or not it is there."""
        return key_of("samples", self._inputs())

    @property
    def rows(self) -> int:
        """How many contents the model looks at."""
        return sum(len(self._wanted(part)) for part in self._parts())

    def _inputs(self) -> dict[str, Any]:
        seen = hashlib.blake2b(digest_size=16)
        for part in self._parts():
            at = self._at(pq.read_table(part, columns=["id"]))
            seen.update(orjson.dumps([self.standing[at].tolist(), self.looked[at].tolist()]))
        return {
            "version": VERSION,
            "refined_from": self.source.key,
            "method": self.refiner.name,
            "method_version": self.refiner.version,
            **self.refiner.identity(),
            "standing": seen.hexdigest(),
        }

    def _parts(self) -> list[Path]:
        return sorted(self.source.path.glob("part-*.parquet"))

    def _at(self, table: pa.Table) -> np.ndarray:
        """The row in the pool of each row of a part."""
        ids = table.column("id").combine_chunks()
        at: np.ndarray = pc.index_in(ids, value_set=self.columns.pool.ids).to_numpy()
        return at

    def _make(self, maker: Maker) -> Mapping[str, Any]:
        if maker.has(_FACTS):  # killed while it removed the outcomes
            return self._finished(maker)
        name = self.source.facts["name"]
        parts = self._parts()
        wanted = [self._wanted(part) for part in parts]
        with self.ctx.progress(f"refine {name}", sum(map(len, wanted))) as advance:
            found = [
                dict(self._outcomes(maker, number, rows, advance))
                for number, rows in enumerate(wanted)
            ]
        actions: Counter[str] = Counter()
        reasons: Counter[str] = Counter()
        taken = self._occurrences(parts, found)
        changed = 0
        for number, (part, outcomes) in enumerate(zip(parts, found, strict=True)):
            table = pq.read_table(part)
            at = self._at(table)
            new = refined(table, self.standing[at], self.looked[at], outcomes, taken)
            told = refinements(table, new, self.looked[at], outcomes, self._provenance())
            maker.write_parquet(f"refinements-{number:05d}.parquet", told)
            maker.write_parquet(f"part-{number:05d}.parquet", new)
            actions.update(new.column("refine_action").to_pylist())
            reasons.update(told.column("reason").to_pylist())
            changed += new.num_rows - new.column("refined_from").null_count
        for path in self.source.path.glob("rejected-*.parquet"):
            maker.write_parquet(path.name, pq.read_table(path))
        counts = {
            "actions": dict(sorted(actions.items())),
            "reasons": dict(sorted(reasons.items())),
        }
        facts = {"method": self.refiner.name, "changed": changed, **counts}
        maker.write_json(_FACTS, {**self.source.facts, **facts})
        return self._finished(maker)

    def _finished(self, maker: Maker) -> Mapping[str, Any]:
        for path in maker.folder.glob("outcomes-*.parquet"):
            path.unlink()
        facts: Mapping[str, Any] = files.read_json(maker.folder / _FACTS)
        return facts

    def _wanted(self, part: Path) -> dict[str, int]:
        """The contents of a part to look at, and the first row of each."""
        table = pq.read_table(part, columns=["id", "content_key"])
        keys = table.column("content_key").to_pylist()
        rows = np.flatnonzero(self.looked[self._at(table)])
        return {keys[row]: int(row) for row in rows[::-1].tolist()}

    def _outcomes(
        self, maker: Maker, number: int, wanted: Mapping[str, int], advance: Advance
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """What became of each content of a part, a chunk at a time; kept by an earlier run or made
        now."""
        order = sorted(wanted.values())
        table = pq.read_table(
            self._parts()[number], columns=["content_key", "messages", "tools"]
        ).take(pa.array(order, pa.int64()))
        for start in range(0, len(order), CHUNK_ROWS):
            name = f"outcomes-{number:05d}-{start:08d}.parquet"
            chunk = table.slice(start, CHUNK_ROWS)
            if maker.has(name):
                advance(chunk.num_rows)
            else:
                rows = _rows(chunk)
                done = self.refiner.refine(rows, advance=advance)
                told = [_stored(row, outcome) for row, outcome in zip(rows, done, strict=True)]
                maker.write_parquet(name, pa.Table.from_pylist(told, OUTCOMES))
            for outcome in pq.read_table(maker.folder / name).to_pylist():
                yield outcome["content_key"], outcome

    def _occurrences(
        self, parts: list[Path], found: list[dict[str, dict[str, Any]]]
    ) -> Counter[str]:
        """How many unchanged rows hold each of the contents that rows now get."""
        moved = {k for outcomes in found for k, o in outcomes.items() if o["new_key"] is not None}
        new = {o["new_key"] for outcomes in found for o in outcomes.values() if o["new_key"]}
        counts: Counter[str] = Counter()
        for part in parts:
            keys = pq.read_table(part, columns=["content_key"]).column("content_key").to_pylist()
            counts.update(k for k in keys if k in new and k not in moved)
        return counts

    def _provenance(self) -> dict[str, str]:
        block = self.ctx.recipe.refine
        model = self.refiner.identity()["model"]
        return {
            "method": self.refiner.name,
            "model": block.model if block else "",
            "model_identity": orjson.dumps(model, option=orjson.OPT_SORT_KEYS).decode(),
        }


def _rows(table: pa.Table) -> list[Row]:
    turns = samples.decode_messages(table.column("messages"))
    tools = samples.decode_tools(table.column("tools"))
    keys = table.column("content_key").to_pylist()
    return [Row(*row) for row in zip(keys, turns, tools, strict=True)]


def _stored(row: Row, outcome: Refined) -> dict[str, Any]:
    """An outcome as a row of `OUTCOMES`."""
    messages = outcome.messages
    new_key = None if messages is None else samples.content_key(messages, row.tools)
    if new_key == row.key:
        new_key = messages = None
    return {
        "content_key": row.key,
        "action": outcome.action,
        "reason": outcome.reason,
        "new_key": new_key,
        "messages": None if messages is None else [samples.encode_message(m) for m in messages],
        "before": outcome.before,
        "after": outcome.after if new_key else None,
        "candidate": outcome.candidate,
        "confidences": orjson.dumps(dict(outcome.confidences)).decode(),
    }
