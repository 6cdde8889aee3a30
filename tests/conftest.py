"""What all tests share: the folder of vectors, the small real model, and quiet surroundings."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# No test may reach a model hub; set before anything imports transformers or datasets.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session")
def vectors() -> Callable[[str], Path]:
    """Give the folder of a method's vectors; fail when it holds no case."""
    root = Path(os.environ.get("TAMIS_VECTORS", ROOT / "tests" / "vectors"))

    def folder(method: str) -> Path:
        path = root / method
        cases = [p for p in path.glob("*") if p.suffix in {".npz", ".json"}]
        if not cases:
            pytest.fail(f"no vectors for {method} in {path}")
        return path

    return folder


@pytest.fixture(scope="session")
def base_model() -> Path:
    """The folder of the small real language model; skip where it is absent."""
    default = ROOT.parent / "shared" / "models" / "base-17m"
    path = Path(os.environ.get("TAMIS_BASE_MODEL", default))
    if not path.is_dir():
        pytest.skip(f"no small language model at {path}; set TAMIS_BASE_MODEL")
    return path


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real instruction data; skip where it is absent."""
    default = ROOT.parent / "shared" / "data"
    path = Path(os.environ.get("TAMIS_REAL_DATA", default))
    if not path.is_dir():
        pytest.skip(f"no real data at {path}; set TAMIS_REAL_DATA")
    return path
