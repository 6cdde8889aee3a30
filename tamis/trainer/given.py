"""What a run is given beside its rows and its model."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from tamis.recipe import Model


@dataclass(frozen=True, slots=True)
class Given:
    """Trusted rows (`row_id`, `messages`, `tools`, `weight`), a reference model and a teacher.

    `safe` is what bds trains on beside the candidates and greats steers by; `reference` is the
    model whose loss rho_loss takes off. Rows of the run may have that loss as a column of their
    own, `reference_loss`; then no model is asked. `teacher` is the model that taid distils from.
    """

    safe: pa.Table | None = None
    reference: Model | None = None
    teacher: Model | None = None


NOTHING = Given()
