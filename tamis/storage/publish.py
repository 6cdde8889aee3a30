"""A copy of a manifest outside the store: in a folder or at an fsspec URL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec
import orjson

from tamis.errors import DataError
from tamis.storage.manifests import MANIFEST, Manifest

# What a copy is compared by; the time it was written does not count.
_SAME = ("content_hash", "heldout_content_hash", "name", "selection", "files")


def publish(manifest: Manifest, target: str) -> bool:
    """Copy a manifest to `target`; False when the same one is there already.

    A manifest that is there is replaced. manifest.json is removed first and written last, so what
    has one is whole. Raises `DataError` when the folder holds other things than a manifest.
    """
    fs, root = fsspec.core.url_to_fs(target)
    there = _there(fs, root, target)
    if there is not None:
        if all(there.get(name) == manifest.info.get(name) for name in _SAME):
            return False
        fs.rm(f"{root}/{MANIFEST}")
        for entry in there["files"]:
            if fs.exists(f"{root}/{entry['path']}"):
                fs.rm(f"{root}/{entry['path']}")
    names = [str(entry["path"]) for entry in manifest.info["files"]]
    for name in [*names, "dataset_info.json", "axolotl.yaml", "README.md", MANIFEST]:
        fs.makedirs(f"{root}/{name}".rpartition("/")[0], exist_ok=True)
        fs.put_file(str(Path(manifest.folder) / name), f"{root}/{name}")
    return True


def _there(fs: Any, root: str, target: str) -> dict[str, Any] | None:
    """The manifest.json that lies at the target, if any."""
    if fs.exists(f"{root}/{MANIFEST}"):
        found: dict[str, Any] = orjson.loads(fs.cat_file(f"{root}/{MANIFEST}"))
        return found
    if fs.isdir(root) and fs.ls(root):
        raise DataError(
            f"export.folder {target} is not empty and holds no manifest: name another folder"
        )
    return None
