"""What a row asks a model to be able to do: one category a row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from tamis.errors import DataError, RecipeError
from tamis.numerics.ragged import Ragged
from tamis.recipe import Model
from tamis.scoring.base import Advance, PoolColumns, Rows
from tamis.scoring.encoder import Encoder
from tamis.scoring.labels import names
from tamis.scoring.labels.names import NO_VECTOR

OTHER = "other"
NO_TAG = "no_tag"
# The ten of DoIT, each by a sentence that says what belongs to it.
ABILITIES: Mapping[str, str] = {
    "science": "A question about biology, chemistry, medicine or physics.",
    "history": "A question about history, politics, geography or society.",
    "chinese": "A text in Chinese: 这是一段中文。",
    "code": "Write or fix a program: a Python function, code, SQL, HTML.",
    "creative_writing": "Write a story, a poem, a song or an advertisement.",
    "ethics": "Is it morally right or wrong to do this?",
    "mathematics": "Solve the math word problem: how many, how much in total?",
    "logic": "Solve a puzzle by logical reasoning: which conclusion follows?",
    "role_play": "Pretend to be a character and talk to me as this person.",
    "dialogue": "Read the conversation between two people and answer a question about it.",
}


@dataclass(frozen=True)
class Abilities:
    """The category of each row out of `abilities` (name to a sentence that says what belongs to
    it), `other` where it is not clear.

    Without training: the category is that whose sentence has the embedding nearest to the row's
    `embedding`, `other` where the second is nearer than `margin` behind it. The same encoder must
    have made both. With `tags`, a column of lists such as that of llm_tags with these names as
    `choices`, it is the first tag that names an ability, `other` where none does, and no embedding
    of the rows is read. `labels` is the category as a list, empty for `other`.

    Source: the ability categories of DoIT (arXiv 2310.19651), whose rows came sorted; assigning
    them is this project's. Cost: one embedding a category, O(n L d).
    """

    model: Model | str | None
    device: str
    abilities: Mapping[str, str] = field(default_factory=lambda: ABILITIES)
    margin: float = 0.05
    embedding: str = "embed.vector"
    tags: str | None = None

    name: ClassVar[str] = "abilities"
    version: ClassVar[int] = 1
    encoder: ClassVar[bool] = True
    about: ClassVar[Mapping[str, str]] = {
        "sentence": "One category a row: code, mathematics, creative writing and the like.",
        "needs": "an embedding of the rows and its encoder, or tags by a language model",
        "view": "none: it reads columns",
        "cost": "seconds",
        "avoid": "before you have read some rows of each category: the sentences decide",
    }
    fields = ("ability", "labels", "cosine", "margin", "reason")

    def needs(self) -> frozenset[str]:
        """The embedding of the rows, or their tags."""
        return frozenset({self.tags or self.embedding})

    def identity(self) -> Mapping[str, Any]:
        """The options and the encoder."""
        return {
            "abilities": [list(pair) for pair in self.abilities.items()],
            "reads": ["tags", self.tags] if self.tags else ["embedding", self.embedding],
            "margin": None if self.tags else self.margin,
            "encoder": self._encoder.identity(),
        }

    def check(self) -> None:
        """Raise if there are no categories, one is called other, or the encoder is missing."""
        if not self.abilities or OTHER in self.abilities or not all(self.abilities.values()):
            raise RecipeError(
                "abilities.abilities must map names to sentences, at least one, and none is called "
                f"{OTHER}: that is what is left"
            )
        if self.margin < 0:
            raise RecipeError(f"abilities.margin must be 0 or more, got {self.margin}")
        self._encoder.check()

    @property
    def warnings(self) -> list[str]:
        """Those of the encoder."""
        return self._encoder.warnings

    def score_pool(self, rows: Rows, *, advance: Advance) -> PoolColumns:
        """`ability`, None with a `reason` where a row has neither vector nor tags; `cosine` with
        the nearest sentence and `margin` to the second, NaN by tags."""
        called = list(self.abilities)
        places, _ = self._encoder.encode(list(self.abilities.values()))
        given = rows.columns[self.tags or self.embedding]
        cosine, margin = np.full(rows.n, np.nan), np.full(rows.n, np.nan)
        ability = np.full(rows.n, None, dtype=object)
        if self.tags is not None:
            ability[:] = _tagged(given, called, self.tags)
        else:
            vectors = np.asarray(given)
            if vectors.ndim != 2 or vectors.shape[1] != places.shape[1]:
                raise DataError(
                    f"abilities: {self.embedding} is not of the encoder that reads the sentences, "
                    f"which gives {places.shape[1]} numbers; name the same model for both"
                )
            for part, order, near in names.nearest(vectors, places, 2):
                cosine[part] = near[:, 0]
                margin[part] = np.round(near[:, 0] - near[:, 1], 6) if len(called) > 1 else 2.0
                found = np.array(called, dtype=object)[order[:, 0]]
                ability[part] = np.where(margin[part] >= self.margin, found, OTHER)
                advance(len(part))
        unknown = np.array([a is None for a in ability])
        reason = np.full(rows.n, None, dtype=object)
        reason[unknown] = NO_TAG if self.tags else NO_VECTOR
        labels = names.column([[a] if a in self.abilities else [] for a in ability.tolist()])
        columns = {
            "ability": ability,
            "labels": labels,
            "cosine": cosine,
            "margin": margin,
            "reason": reason,
        }
        table = {"name": np.array(called, dtype=object), "embedding": places}
        counts = {a: int((ability == a).sum()) for a in [*called, OTHER]}
        return PoolColumns(columns, table, {a: count for a, count in counts.items() if count})

    @cached_property
    def _encoder(self) -> Encoder:
        return Encoder(self.model, self.device, self.name)


def _tagged(column: np.ndarray | Ragged, called: list[str], name: str) -> list[str | None]:
    """The first tag of each row that is an ability; `other` where others stand, None where none
    do."""
    if not isinstance(column, Ragged):
        raise DataError(f"abilities: the column {name} must hold lists of texts")
    found: list[str | None] = []
    flat = column.values.tolist()
    for start, end in zip(column.indptr[:-1].tolist(), column.indptr[1:].tolist(), strict=True):
        tags = flat[start:end]
        found.append(next((t for t in tags if t in called), OTHER if tags else None))
    return found
