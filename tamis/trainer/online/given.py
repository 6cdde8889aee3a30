"""What an online rule reads beside the rows of the run, made ready."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tamis.language.load import identity
from tamis.recipe import Model
from tamis.trainer.data import Examples


@dataclass(frozen=True, slots=True)
class Beside:
    """Of `Given`: `safe` as tokens, the model to compare with, or in its place `losses` (n,), the
    reference column of the rows."""

    safe: Examples | None = None
    reference: Model | None = None
    losses: np.ndarray | None = None

    def identity(self) -> dict[str, Any]:
        """What determines which rows are picked, for keys; no path."""
        return {
            "safe": self.safe and self.safe.fingerprint(),
            "reference": self.reference and identity(self.reference),
            "losses": None if self.losses is None else self.losses.tolist(),
        }
