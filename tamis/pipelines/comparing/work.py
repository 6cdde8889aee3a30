"""The work of a comparison: every cell selected, tuned and evaluated, here or in processes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from typing import Any

from tamis.language import tally
from tamis.language.tally import Tally
from tamis.pipelines import evaluate as evaluation
from tamis.pipelines import export as exporting
from tamis.pipelines import heldout, opened, stages, workers
from tamis.pipelines import tune as tuning
from tamis.pipelines.comparing.cells import Cell, recipe_of
from tamis.pipelines.context import Context
from tamis.recipe import Recipe
from tamis.storage.artifact import Store
from tamis.trainer import launch

STEPS = ("selection", "manifest", "model", "evaluation")


@dataclass(frozen=True, slots=True)
class Done:
    """A cell whose artefacts are in the store: the key of each by name, how many of them were there
    before, the seconds this took now, and what models read for it where that was in a process of
    its own."""

    cell: Cell
    keys: Mapping[str, str]
    reused: int
    seconds: float
    read: Tally = field(default_factory=Tally)

    @property
    def computed(self) -> bool:
        """Whether anything of it had to be made."""
        return self.reused < len(self.keys)


def run_cell(ctx: Context, keys: Mapping[str, str], cell: Cell) -> Done:
    """Select, export, tune and evaluate one cell. `ctx` has the recipe of the comparison, `keys`
    name samples and signals.

    Each step is an artefact whose key holds all it depends on, so a cell that was killed goes on
    behind the last one that came to its end, and one that is there costs a look.
    """
    start = time.monotonic()
    own = replace(ctx, recipe=recipe_of(ctx.recipe, cell))
    if own.recipe.target is None:
        keys = {name: key for name, key in keys.items() if name != "target"}
    columns = opened.columns(own, keys)
    held = opened.heldout_rows(own, keys, columns)
    mask = heldout.mask(own.recipe, columns)
    selection, old = stages.picked(own, keys, columns, mask)
    # Without a suffix: equal subsets of different methods share one manifest and one model.
    manifest, was = exporting.export(own, columns.pool, selection, held, publish=False, suffix="")
    model, had = tuning.tune(own, manifest.path, title=f"tune {cell}")
    found, there = evaluation.evaluate(own, model, held, title=f"evaluate {cell}")
    made = (selection.key, manifest.key, model.key, found.key)
    reused = old + was + had + there
    return Done(cell, dict(zip(STEPS, made, strict=True)), reused, time.monotonic() - start)


def run_cells(
    ctx: Context, keys: Mapping[str, str], wanted: Sequence[Cell], jobs: int
) -> list[Done]:
    """Run the cells, `jobs` at a time, and tell how it goes; returns them in the order given.

    More than one are processes that share the cores of this machine, or take its GPUs in turn.
    """
    start, made = time.monotonic(), 0
    found: dict[Cell, Done] = {}
    arriving = _here(ctx, keys, wanted) if jobs == 1 else _processes(ctx, keys, wanted, jobs)
    for done in arriving:
        found[done.cell] = done
        made += done.computed
        ctx.say(_told(done, len(found), len(wanted), made, time.monotonic() - start))
    return [found[cell] for cell in wanted]


def _told(done: Done, at: int, of: int, made: int, seconds: float) -> str:
    if not done.computed:
        return f"cell {at} of {of}: {done.cell}: reused"
    left = (of - at) * seconds / made
    rest = f", about {max(1, round(left / 60))} min left" if at < of else ""
    return f"cell {at} of {of}: {done.cell}: {done.seconds:.0f} s{rest}"


def _here(ctx: Context, keys: Mapping[str, str], wanted: Sequence[Cell]) -> Iterator[Done]:
    for cell in wanted:
        yield run_cell(ctx, keys, cell)


def _processes(
    ctx: Context, keys: Mapping[str, str], wanted: Sequence[Cell], jobs: int
) -> Iterator[Done]:
    import torch

    turns = get_context("spawn").Queue()
    for turn in range(jobs):
        turns.put(turn)
    threads = max(1, torch.get_num_threads() // jobs)
    gpus = _gpus() if ctx.device == "cuda" else []
    given = (ctx.recipe, str(ctx.store.root), ctx.device, dict(keys), threads, gpus, turns)
    pool = workers.processes(jobs, _begin, given)
    for _, done in workers.each(
        pool, _run, wanted, called="a process of the comparison", fewer="--jobs"
    ):
        tally.note(done.read.passes, done.read.tokens, done.read.written)
        yield done


def _gpus() -> list[str]:
    """The GPUs this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return given.split(",") if given else [str(i) for i in range(torch.cuda.device_count())]


_state: tuple[Context, dict[str, str]]


def _begin(
    recipe: Recipe,
    root: str,
    device: str,
    keys: dict[str, str],
    threads: int,
    gpus: Sequence[str],
    turns: Any,
) -> None:
    """What a process does first: take its share of the machine, and remember what all share."""
    global _state
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[turns.get() % len(gpus)]
    import torch

    torch.set_num_threads(threads)
    # Bars of several processes would write over each other; the first process tells each cell.
    _state = (Context(recipe, Store(root), device, launch.silent, launch.unseen), keys)


def _run(cell: Cell) -> Done:
    ctx, keys = _state
    with tally.counted() as read:
        done = run_cell(ctx, keys, cell)
    return replace(done, read=read)
