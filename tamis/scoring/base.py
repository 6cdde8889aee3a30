"""What a scorer is. Scorers know batches or arrays, never files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import numpy as np
import pyarrow as pa

# One entry a field: a numpy array whose NaN (float) or None (object) means undefined; (n, d)
# float32 for vectors.
Columns = Mapping[str, np.ndarray]


class RowScorer(Protocol):
    """A signal that each row has by itself: a frozen dataclass whose fields are its options.

    `version` is raised by hand when the values change. `fields` names the columns in the order they are stored.
    """

    name: ClassVar[str]
    version: ClassVar[int]

    @property
    def fields(self) -> tuple[str, ...]:
        """The columns it gives."""
        ...

    def identity(self) -> Mapping[str, Any]:
        """Everything that determines the values: options, model identity, view. JSON-like; never a
        path."""
        ...

    def score(self, batch: pa.RecordBatch) -> Columns:
        """Score the rows of a batch (columns of `samples`), in their order."""
        ...
