"""Models that are tuned on the pool before it is scored with them, folds apart if asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from tamis.pipelines import evaluate, export, plan, select, tune
from tamis.pipelines.columns import Columns
from tamis.pipelines.context import Context
from tamis.pipelines.pool import Snapshot
from tamis.recipe import Budget, Model, Select
from tamis.storage.artifact import Artifact


@dataclass(frozen=True, slots=True)
class Fold:
    """The rows of a pool that the model of a fold has not seen.

    Which fold a row is of follows from its content alone: copies go together, and new rows move no
    old one.
    """

    pool: Snapshot
    number: int
    folds: int

    def __len__(self) -> int:
        return int(_members(self.pool.column("content_key"), self.number, self.folds).sum())

    @property
    def parts(self) -> Sequence[Path]:
        """The files of the pool."""
        return self.pool.parts

    def batch(self, number: int) -> pa.Table:
        """The rows of the fold in a part."""
        table = self.pool.batch(number)
        keys = table.column("content_key").combine_chunks()
        return table.filter(pa.array(_members(keys, self.number, self.folds)))


def models(ctx: Context, columns: Columns, name: str, heldout: np.ndarray) -> list[Model]:
    """Tune the entry `name` of `tuned` on the pool; one model a fold, in the order of the folds.

    With one fold the model sees all rows, those it scores too. With more, the model of a fold is
    tuned on the rows of all others. Rows that do not pass the filters of the entry or are marked
    in `heldout` are never trained on. What was tuned before is reused.
    """
    options = ctx.recipe.tuned[name]
    base = plan.model(ctx.recipe, options.model, f"tuned.{name}")
    found = []
    for number, (inner, manifest) in enumerate(manifests(ctx, columns, name, heldout)):
        title = f"tune {name}" + (f", fold {number + 1}" if options.folds > 1 else "")
        tuned, _ = tune.tune(inner, manifest.path, title=title)
        found.append(evaluate.tuned_model(base, tuned))
    return found


def manifests(
    ctx: Context, columns: Columns, name: str, heldout: np.ndarray
) -> Iterator[tuple[Context, Artifact]]:
    """What the model of each fold is tuned on, and the surroundings in which it is."""
    options = ctx.recipe.tuned[name]
    recipe = ctx.recipe.model_copy(
        update={"name": name, "tune": options, "evaluate": None, "target": None}
    )
    inner = replace(ctx, recipe=recipe)
    everything = Select(method="random", options={}, budget=Budget(percent=100.0))
    for number in range(options.folds):
        aside = heldout.copy()
        if options.folds > 1:
            aside |= _members(columns.pool.column("content_key"), number, options.folds)
        chosen, _ = select.select(inner, columns, everything, options.filters, aside)
        manifest, _ = export.export(inner, columns.pool, chosen, None, publish=False)
        yield inner, manifest


def _members(keys: pa.Array, number: int, folds: int) -> np.ndarray:
    """Which rows are of this fold: the content key is a hash, so its last digits draw."""
    return np.array([int(key[-8:], 16) % folds == number for key in keys.to_pylist()], dtype=bool)
