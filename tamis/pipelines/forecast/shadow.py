"""A store to try things in: holds all that the real one holds, and writes nothing there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from tamis.pipelines.context import Context
from tamis.storage.artifact import SEAL, Store

# Pages and logs are of real runs, and no request is sent from here.
_LEFT = {"runs", "reports", "replies", "locks"}


@contextmanager
def shadow(ctx: Context) -> Iterator[Context]:
    """The same surroundings over a temporary store, and no folder to export to.

    Sealed artefacts of the real store are links there, so what a stage finds by its key it finds
    here too; what it makes is gone afterwards. Says nothing.
    """
    with TemporaryDirectory(prefix="tamis-plan-") as name:
        folder = Path(name)
        _mirror(ctx.store.root, folder)
        export = ctx.recipe.export.model_copy(update={"folder": None})
        recipe = ctx.recipe.model_copy(update={"store": name, "export": export})
        yield replace(ctx, recipe=recipe, store=Store(folder), say=_silent)


def made_bytes(store: Store, kind: str, key: str) -> int:
    """What an artefact takes on disk that was made here; 0 of one that the real store has."""
    folder = store.folder(kind, key)
    if folder.is_symlink():
        return 0
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return sum(path.stat().st_size for path in files)


def _mirror(root: Path, folder: Path) -> None:
    for kind in sorted(p for p in root.glob("*") if p.is_dir() and p.name not in _LEFT):
        target = folder / kind.name
        if kind.name == "latest":
            shutil.copytree(kind, target)
        elif kind.name == "signals":
            for signal in kind.iterdir():
                _link_files(signal, target / signal.name)
        else:
            target.mkdir()
            for artifact in kind.iterdir():
                if (artifact / SEAL).is_file() and not artifact.name.endswith(".partial"):
                    (target / artifact.name).symlink_to(artifact.resolve())


def _link_files(signal: Path, target: Path) -> None:
    """A signal grows in its folder, so the folder is of the shadow and the files are links."""
    target.mkdir(parents=True)
    for path in signal.iterdir():
        if not path.name.startswith("."):
            (target / path.name).symlink_to(path.resolve())


def _silent(_: str) -> None:
    pass
