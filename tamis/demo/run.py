"""The whole chain on bundled data: data, a model, the recipe, and the reckoning."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

from tamis import recipe as recipes
from tamis.demo import data, lm, reckoning
from tamis.pipelines.context import Progress
from tamis.pipelines.run import Summary, context, run
from tamis.recipe import Recipe
from tamis.storage.artifact import Say, Store
from tamis.storage.catalogue import open_store

FOLDER = "tamis-demo"  # as the recipe names it
SEED = 0


def demo(
    folder: Path,
    *,
    say: Say,
    progress: Progress,
    sizes: data.Sizes | None = None,
    shape: lm.Shape | None = None,
    settings: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Run the demo in `folder` and return what it found, as JSON-like values.

    A second run in the same folder reuses the data, the model and every stage. `sizes`, `shape` and
    `settings` (over the recipe) make it smaller; the defaults take a few minutes on two cores.
    """
    with _one_thread():
        return _demo(folder, say, progress, sizes, shape or lm.Shape(), settings)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Matrices this small gain little from a second thread, and lose much where cores are busy."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _demo(
    folder: Path,
    say: Say,
    progress: Progress,
    sizes: data.Sizes | None,
    shape: lm.Shape,
    settings: tuple[str, ...],
) -> dict[str, Any]:
    start = time.monotonic()
    say("writing the demo's data: instruction rows with planted defects")
    written = data.write(folder / "data", seed=SEED, sizes=sizes)
    models = Store(folder / "models")
    model, reused = lm.trained(models, written.pretrain, shape=shape, say=say, progress=progress)
    say(
        f"language model {'reused' if reused else 'trained'}: {model.facts['parameters']:,} weights"
    )
    _link(folder / "lm", model.path)
    summary = run(context(_recipe(folder, settings), say=say, progress=progress))
    return _told(folder, written, summary, time.monotonic() - start)


def _recipe(folder: Path, settings: tuple[str, ...]) -> Recipe:
    """Write the recipes with this folder's paths, so that `tamis run` and `tamis compare` can take
    them, and load the first."""
    for name in ("recipe.yaml", "compare.yaml"):
        text = resources.files("tamis.demo").joinpath(name).read_text("utf-8")
        (folder / name).write_text(text.replace(FOLDER, folder.as_posix()), "utf-8")
    return recipes.load(folder / "recipe.yaml", settings)


def _link(link: Path, target: Path) -> None:
    """Let `link` point to the model's folder, whose own name is a hash."""
    temporary = link.with_name(f".{link.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(os.path.relpath(target, link.parent), target_is_directory=True)
    os.replace(temporary, link)


def _told(folder: Path, written: data.DemoData, summary: Summary, seconds: float) -> dict[str, Any]:
    rows = reckoning.read(open_store(summary.store), summary.keys["chosen/selection"])
    selected, evaluated = summary.facts("select"), summary.facts("evaluate")
    return {
        "seconds": round(seconds, 1),
        "rows": {"pool": len(rows), "rejected": written.rejects, "planted": written.planted},
        "found": [asdict(found) for found in reckoning.found(rows)],
        "skew": asdict(reckoning.skew(rows)),
        "subsets": {
            name: {"rows": facts["kept"], "tokens": facts.get("total_tokens")}
            for name, facts in selected.items()
        },
        "heldout": {
            name: _figures(facts) for name, facts in evaluated.items() if name != "difference"
        },
        "difference": _figures(evaluated.get("difference", {})),
        "report": summary.facts("report").get("path"),
        "store": str(summary.store),
        "recipe": str(folder / "recipe.yaml"),
    }


def _figures(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: facts[name] for name in ("nll", "exact_match") if name in facts}
