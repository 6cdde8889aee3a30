"""Labels out of the words that tell a row from the others (TF-IDF)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from tamis.errors import RecipeError
from tamis.recipe import Model
from tamis.scoring.base import Advance, PoolColumns, Rows
from tamis.scoring.encoder import Encoder
from tamis.scoring.labels import names
from tamis.scoring.views import View

# Scripts that are written without spaces; their words are taken as pairs of characters.
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u0e00-\u0e7f"
_TERMS = re.compile(rf"[{_UNSPACED}]+|[^\W\d_{_UNSPACED}][^\W_{_UNSPACED}]+")


@dataclass(frozen=True)
class Keywords:
    """The `most` terms of a row's text with the highest TF-IDF.

    tf-idf = tf (ln((1 + n) / (1 + df)) + 1). A term must stand in at least `least` rows and at most
    the share `share` of them; `phrases` takes pairs of neighbouring words too. English function
    words are left out. Ties go to the term that is first in the alphabet. Rows without such a term
    have no label.

    Cost: O(total words); one embedding a term that some row is labelled with.
    """

    model: Model | str | None
    device: str
    most: int = 3
    least: int = 5
    share: float = 0.1
    phrases: bool = True
    view: View = "user"

    name: ClassVar[str] = "keywords"
    version: ClassVar[int] = 1
    encoder: ClassVar[bool] = True
    about: ClassVar[Mapping[str, str]] = {
        "sentence": "Labels: the words that tell a row from the others.",
        "needs": "the texts, and a sentence encoder",
        "view": "user, or as option view says",
        "cost": "a minute per 100k rows, and an embedding a word that is used",
        "avoid": "for templated instructions, whose words say the template and not the topic",
    }
    fields = ("labels",)

    def needs(self) -> frozenset[str]:
        """No column: it reads the texts."""
        return frozenset()

    def identity(self) -> Mapping[str, Any]:
        """The options and the encoder."""
        return {
            "most": self.most,
            "least": self.least,
            "share": self.share,
            "phrases": self.phrases,
            "view": self.view,
            "encoder": self._encoder.identity(),
        }

    def check(self) -> None:
        """Raise if an option is out of range or the encoder is missing."""
        if self.most < 1 or self.least < 1 or not 0 < self.share <= 1:
            raise RecipeError("keywords needs most >= 1, least >= 1 and share in (0, 1]")
        self._encoder.check()

    @property
    def warnings(self) -> list[str]:
        """Those of the encoder."""
        return self._encoder.warnings

    def score_pool(self, rows: Rows, *, advance: Advance) -> PoolColumns:
        """The `labels` of each row, the highest TF-IDF first."""
        lists = self._terms(rows.texts(self.view))
        advance(rows.n)
        return names.labelled(lists, self._encoder)

    def _terms(self, texts: list[str]) -> list[list[str]]:
        from sklearn.feature_extraction.text import TfidfVectorizer

        if max(1, int(self.share * len(texts))) < self.least:
            # No term can stand in so many rows and in so few.
            return [[] for _ in texts]
        weigh = TfidfVectorizer(
            tokenizer=words,
            token_pattern=None,
            lowercase=False,
            ngram_range=(1, 2 if self.phrases else 1),
            min_df=self.least,
            max_df=max(1, int(self.share * len(texts))),
            norm=None,
        )
        try:
            weights = weigh.fit_transform(texts).tocsr()
        except ValueError:
            # What scikit-learn says when no term is left.
            return [[] for _ in texts]
        terms = weigh.get_feature_names_out()
        return [
            _best(terms, weights.indices[a:b], weights.data[a:b], self.most)
            for a, b in zip(weights.indptr[:-1], weights.indptr[1:], strict=True)
        ]

    @cached_property
    def _encoder(self) -> Encoder:
        return Encoder(self.model, self.device, self.name)


def words(text: str) -> list[str]:
    """Lower-case words of two letters or more but for English function words; of scripts without
    spaces, pairs of characters."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    found: list[str] = []
    for match in _TERMS.finditer(text.lower()):
        term = match.group()
        if re.match(rf"[{_UNSPACED}]", term):
            found += [term[i : i + 2] for i in range(max(1, len(term) - 1))]
        elif term not in ENGLISH_STOP_WORDS:
            found.append(term)
    return found


def _best(terms: np.ndarray, columns: np.ndarray, weights: np.ndarray, most: int) -> list[str]:
    # Columns are in the order of the alphabet.
    order = np.lexsort((columns, -np.round(weights, 9)))[:most]
    return [str(terms[columns[i]]) for i in order]
