"""The grid: which contestants meet in which setting, and the cell of each with each seed.

A cell runs the chain of tamis (select, export, tune, evaluate) with settings over the setting's
recipe and leaves one small JSON file, which is never made again. Signals are computed once a
setting and shared by all cells.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from evidence import pools
from tamis import console, recipe
from tamis.pipelines import evaluate as evaluating
from tamis.pipelines import opened
from tamis.pipelines import run as running
from tamis.pipelines.evaluate import ROWS
from tamis.samples import decode_messages
from tamis.storage import files
from tamis.storage.artifact import Artifact

HERE = Path(__file__).resolve().parent
_PACKAGES = ("torch", "transformers")


@dataclass(frozen=True, slots=True)
class Setting:
    """One question: contestants over a recipe, held against two references."""

    name: str
    title: str
    pool: str
    heldout: str
    start: str
    goal: str
    figure: str
    contestants: Mapping[str, Mapping[str, Any]]
    aim: float | None
    every: bool = False
    seeds: tuple[int, ...] = (0, 1, 2)
    target: str | None = None


@dataclass(frozen=True, slots=True)
class Cell:
    """One contestant in one setting with one seed."""

    setting: Setting
    contestant: str
    seed: int
    size: str

    @property
    def path(self) -> Path:
        """Where its figures lie, or will."""
        folder = HERE / "cells" / self.size / self.setting.name
        return folder / f"{self.contestant}-{self.seed}.json"


@dataclass(frozen=True, slots=True)
class Place:
    """Where the data and the model are, and where the work is done."""

    data: Path
    model: str | None
    work: Path
    size: str

    @property
    def pools(self) -> Path:
        """The folder of the pools."""
        return self.work / self.size / "pools"

    def store(self, setting: Setting) -> Path:
        """The store of a setting's cells, which settings with the same pool share."""
        return self.work / self.size / setting.pool


def settings() -> dict[str, Setting]:
    """Every setting of `grid.yaml`, in the order of its worth."""
    listed = yaml.safe_load((HERE / "grid.yaml").read_text(encoding="utf-8"))
    return {name: Setting(name=name, **entry) for name, entry in listed.items()}


def cells(setting: Setting, size: str) -> list[Cell]:
    """The cells of a setting: all contestants with the first seed, then with the next."""
    return [Cell(setting, c, seed, size) for seed in setting.seeds for c in setting.contestants]


def compute(cell: Cell, place: Place) -> bool:
    """Make a cell that is not there; False when another process is at it, or at its signals."""
    setting, name = cell.setting, f"{cell.setting.name}-{cell.contestant}-{cell.seed}"
    claims = place.work / place.size / "claims"
    with _claimed(claims / name) as ours:
        if not ours or cell.path.is_file():
            return False
        with _claimed(claims / "pools") as alone:
            if not alone:
                return False
            model = place.model or recipe.load(_recipe(setting, place)).models["base"].location
            pools.make(place.data, model, place.size, place.pools)
        if setting.contestants[cell.contestant].get("scored", False):
            with _claimed(claims / f"score-{setting.name}") as alone:
                if not alone:
                    return False
                _score(setting, place)
        console.say(f"cell {name}")
        files.write_bytes(cell.path, json.dumps(_measured(cell, place)).encode() + b"\n")
    return True


def _score(setting: Setting, place: Place) -> None:
    """The signals that the cells of a setting share."""
    done = place.store(setting) / f"scored-{setting.name}"
    if not done.is_file():
        # By contestant: rows of a target get the signals that a method compares.
        for entry in setting.contestants.values():
            if entry.get("scored", False):
                ctx = _context(setting, place, [*entry["set"], "seed=0"], entry)
                running.run(ctx, until="score")
        done.touch()


def _recipe(setting: Setting, place: Place) -> Path:
    return HERE / f"{setting.name}{'' if place.size == 'small' else '_large'}.yaml"


def _context(setting: Setting, place: Place, given: list[str], entry: Mapping[str, Any]) -> Any:
    """The surroundings of a run: the recipe with its paths filled in and settings over it."""
    where: dict[str, object] = {
        "sources.pool.path": place.pools / f"{entry.get('pool', setting.pool)}.parquet",
        "evaluate.path": place.pools / f"{setting.heldout}.parquet",
        "store": place.store(setting),
    }
    if setting.target is not None and entry.get("target", True):
        where["target.path"] = place.pools / f"{setting.target}.parquet"
    if place.model is not None:
        local = Path(place.model).is_dir()
        for name in recipe.load(_recipe(setting, place)).models:
            where[f"models.{name}.path"] = place.model if local else "null"
            where[f"models.{name}.hub"] = "null" if local else place.model
    over = [f"{name}={path}" for name, path in where.items()]
    loaded = recipe.load(_recipe(setting, place), [*over, *given])
    return running.context(loaded, say=console.say, progress=console.progress)


def _measured(cell: Cell, place: Place) -> dict[str, Any]:
    """Run the chain and gather what the page needs."""
    entry = cell.setting.contestants[cell.contestant]
    # What a setting scores was scored once, with the first seed; a run finds it by its name.
    given = ["scores=null", *entry.get("set", ()), f"seed={cell.seed}"]
    ctx = _context(cell.setting, place, given, entry)
    processor, start = time.process_time(), time.monotonic()
    summary = running.run(ctx, until="tune")
    evaluation = _evaluated(ctx, summary)
    processor, seconds = time.process_time() - processor, time.monotonic() - start
    found = pq.read_table(evaluation.path / ROWS).sort_by("id")
    facts = evaluation.facts
    tuned = summary.facts("tune")["chosen"]
    return {
        "setting": cell.setting.name,
        "contestant": cell.contestant,
        "seed": cell.seed,
        "size": cell.size,
        "settings": given,
        "figures": {n: facts[n]["value"] for n in ("exact_match", "nll") if n in facts},
        "groups": _groups(facts, cell.setting.figure),
        "heldout": files.digest(found["id"].to_pylist()),
        **_rows(found),
        "kept": _kept(ctx, summary, place),
        "tuned": {n: tuned[n] for n in ("steps", "rows_seen", "tokens_seen")},
        "online": tuned.get("online") and _times(tuned["online"]),
        "processor_seconds": round(processor, 1),
        "seconds": round(seconds, 1),
        "stages": {
            **{o.stage: round(o.seconds, 1) for o in summary.outcomes},
            "evaluate": round(facts["seconds"], 1),
        },
        "cores": os.cpu_count(),
        "load": [round(x, 2) for x in os.getloadavg()],
        "versions": {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in _PACKAGES},
        },
    }


def _evaluated(ctx: Any, summary: running.Summary) -> Artifact:
    """The evaluation of the tuned model; not of the untuned one, which knows nothing here."""
    held = opened.heldout_rows(ctx, summary.keys, opened.columns(ctx, summary.keys))
    tuned = ctx.store.get("models", summary.keys["chosen/model"])
    return evaluating.evaluate(ctx, tuned, held, title="evaluate")[0]


def _rows(found: pa.Table) -> dict[str, Any]:
    """One entry a held-out row in the order of the ids: right or not, -log p, its tokens."""
    match = found["match"].to_pylist()
    return {
        "match": None if None in match else "".join("01"[m] for m in match),
        "nll_sum": [round(x, 3) for x in found["nll_sum"].to_pylist()],
        "tokens": found["tokens"].to_pylist(),
    }


def _groups(facts: Mapping[str, Any], figure: str) -> dict[str, float]:
    """The figure of each family."""
    return {n: round(f[figure]["value"], 4) for n, f in facts["groups"].items() if figure in f}


def _times(online: Mapping[str, Any]) -> dict[str, float]:
    return {n: round(online[n], 1) for n in ("seconds_scoring", "seconds_training")}


def _kept(ctx: Any, summary: running.Summary, place: Place) -> dict[str, Any]:
    """What was chosen, held against the truth that the method did not see."""
    selection = ctx.store.get("selections", summary.keys["chosen/selection"])
    table = pq.read_table(selection.path / "rows.parquet", columns=["id", "kept"])
    ids = table.filter(table["kept"])["id"].combine_chunks()
    rows = opened.pool(ctx, summary.keys).rows(ids, ["id", "row", "family", "messages"])
    right = files.read_json(place.pools / pools.TRUTH)
    given = [messages[-1]["content"] for messages in decode_messages(rows["messages"])]
    names, families = rows["row"].to_pylist(), rows["family"].to_pylist()
    return {
        "rows": len(names),
        "tokens": selection.facts.get("total_tokens"),
        "wrong": sum(
            right.get(n, answer) != answer for n, answer in zip(names, given, strict=True)
        ),
        "families": {name: families.count(name) for name in sorted(set(families))},
    }


@contextmanager
def _claimed(path: Path) -> Iterator[bool]:
    """Whether this process has the lock, which the system frees when the process ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
