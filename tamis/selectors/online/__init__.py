"""Online selection: a candidate batch in, the rows to train on out. They know no trainer."""

from __future__ import annotations

from tamis.selectors.online.base import BatchPicker
from tamis.selectors.online.registry import build, describe, get, names

__all__ = ["BatchPicker", "build", "describe", "get", "names"]
