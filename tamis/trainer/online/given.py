"""What an online rule is given beside the rows of the run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from tamis.language.load import identity
from tamis.recipe import Model
from tamis.trainer.data import Examples


@dataclass(frozen=True, slots=True)
class Given:
    """Trusted rows (`row_id`, `messages`, `tools`, `weight`) and a reference model.

    `safe` is what bds trains on beside the candidates and greats steers by; `reference` is the
    model whose loss rho_loss takes off. Rows of the run may have that loss as a column of their
    own, `reference_loss`; then no model is asked.
    """

    safe: pa.Table | None = None
    reference: Model | None = None


NOTHING = Given()


@dataclass(frozen=True, slots=True)
class Beside:
    """The same, made ready: `safe` as tokens, `losses` (n,) the reference column of the rows."""

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
