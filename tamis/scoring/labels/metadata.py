"""Labels out of columns the rows came with: `family=paws`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from tamis.errors import DataError, RecipeError
from tamis.numerics.ragged import Ragged
from tamis.recipe import Model
from tamis.scoring.base import Advance, PoolColumns, Rows
from tamis.scoring.encoder import Encoder
from tamis.scoring.labels import names


@dataclass(frozen=True)
class Metadata:
    """One label for each of the `columns` that has a value: `column=value`.

    The embedding of a label is that of its value alone: with the name of the column before each,
    all would be alike. Cost: one embedding a label.
    """

    model: Model | str | None
    device: str
    columns: tuple[str, ...]

    name: ClassVar[str] = "metadata"
    version: ClassVar[int] = 1
    encoder: ClassVar[bool] = True
    about: ClassVar[Mapping[str, str]] = {
        "sentence": "Labels: columns the rows came with, such as task, domain or language.",
        "needs": "columns with few different values, and a sentence encoder",
        "view": "none: it reads columns",
        "cost": "seconds; one embedding a label",
        "avoid": "when the columns are far coarser than the differences that matter",
    }
    fields = ("labels",)

    def needs(self) -> frozenset[str]:
        """The columns."""
        return frozenset(self.columns)

    def identity(self) -> Mapping[str, Any]:
        """The columns and the encoder."""
        return {"columns": list(self.columns), "encoder": self._encoder.identity()}

    def check(self) -> None:
        """Raise if no column is named or the encoder is missing."""
        if not self.columns:
            raise RecipeError("metadata.columns must name at least one column")
        self._encoder.check()

    @property
    def warnings(self) -> list[str]:
        """Those of the encoder."""
        return self._encoder.warnings

    def score_pool(self, rows: Rows, *, advance: Advance) -> PoolColumns:
        """The `labels` of each row, in the order of `columns`."""
        lists: list[list[str]] = [[] for _ in range(rows.n)]
        for name in self.columns:
            for row, value in zip(lists, _values(rows.columns[name], name), strict=True):
                if value is not None:
                    row.append(f"{name}={value}")
        advance(rows.n)
        return names.labelled(lists, self._encoder, text=lambda label: label.partition("=")[2])

    @cached_property
    def _encoder(self) -> Encoder:
        return Encoder(self.model, self.device, self.name)


def _values(column: np.ndarray | Ragged, name: str) -> list[Any]:
    if isinstance(column, Ragged) or column.ndim != 1:
        raise DataError(f"metadata: the column {name} must hold one value a row")
    if column.dtype == object:
        return column.tolist()
    # Whole numbers with gaps are stored as floats.
    return [None if v != v else int(v) if v == int(v) else v for v in column.tolist()]
