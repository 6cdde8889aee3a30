"""What of the model is trained: one method a file."""

from __future__ import annotations

from tamis.trainer.methods.base import Context, Method
from tamis.trainer.methods.registry import build, describe, get, learning_rate, names, of

__all__ = ["Context", "Method", "build", "describe", "get", "learning_rate", "names", "of"]
