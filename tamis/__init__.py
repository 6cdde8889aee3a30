"""tamis turns a heap of instruction data into the small subset worth training on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["TamisError", "__version__", "load_recipe", "open", "run"]

if TYPE_CHECKING:
    from tamis.errors import TamisError
    from tamis.pipelines.run import run
    from tamis.recipe import load as load_recipe
    from tamis.storage.catalogue import open_store as open

# Loaded on first use, so that `import tamis` stays instant.
_WHERE = {
    "TamisError": ("tamis.errors", "TamisError"),
    "load_recipe": ("tamis.recipe", "load"),
    "open": ("tamis.storage.catalogue", "open_store"),
    "run": ("tamis.pipelines.run", "run"),
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'tamis' has no attribute {name!r}")
    import importlib

    module, attribute = _WHERE[name]
    return getattr(importlib.import_module(module), attribute)
