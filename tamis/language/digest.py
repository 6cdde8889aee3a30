"""Names of models by content: hashes of their files, and the commit behind a hub id."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from tamis.errors import RecipeError

_COMMIT = re.compile(r"[0-9a-f]{40}")
_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")


def folder_digest(folder: Path, patterns: Iterable[str]) -> str:
    """32 hex digits over the names and bytes of the files of `folder` that match a pattern.

    Neither the path nor the dates of the files count. A file is read once in a process as long as
    its size and date stay. Raises `RecipeError` when no file matches.
    """
    files = sorted({path for pattern in patterns for path in folder.glob(pattern)})
    files = [path for path in files if path.is_file()]
    if not files:
        raise RecipeError(f"the folder {folder} holds no model: expected {', '.join(patterns)}")
    total = hashlib.blake2b(digest_size=16)
    for path in files:
        status = path.stat()
        name = path.relative_to(folder).as_posix()
        digest = _file_digest(str(path.resolve()), status.st_size, status.st_mtime_ns)
        total.update(f"{name}\0{digest}\n".encode())
    return total.hexdigest()


@lru_cache(maxsize=4096)
def _file_digest(path: str, size: int, modified: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


def is_hub_id(name: str) -> bool:
    """Whether `name` has the form of a hub id (`name` or `owner/name`)."""
    return _HUB_ID.fullmatch(name) is not None


def is_cached(name: str, revision: str | None) -> bool:
    """Whether the weights of a hub id lie on this machine; asks nobody."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(name, "config.json", revision=revision)
    return isinstance(config, str) and any(Path(config).parent.glob("*.safetensors"))


@lru_cache(maxsize=256)
def hub_revision(name: str, revision: str | None, file: str = "config.json") -> str:
    """The commit a hub id stands for, asked of the hub, or of the local cache when it is offline.

    `file` is one every copy of the repository has. Raises `RecipeError` when neither knows it.
    """
    if revision is not None and _COMMIT.fullmatch(revision):
        return revision
    import httpx
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        commit = HfApi().model_info(name, revision=revision).sha
        if commit:
            return str(commit)
        cause = "the hub names no commit"
    except (OfflineModeIsEnabled, HfHubHTTPError, httpx.HTTPError, OSError) as error:
        cause = str(error).strip().split("\n", 1)[0]
    cached = try_to_load_from_cache(name, file, revision=revision)
    if isinstance(cached, str):
        return Path(cached).parent.name
    raise RecipeError(
        f"the hub id {name!r} (revision {revision or 'main'}) could not be resolved ({cause}) and "
        "is not in the local cache: check the name, go online once, or give the path of a folder"
    )
