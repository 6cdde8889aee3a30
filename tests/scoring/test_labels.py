"""Label sources: which names a row gets, and the points of the names."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tamis.errors import DataError, RecipeError
from tamis.numerics.ragged import Ragged
from tamis.scoring import registry
from tamis.scoring.base import PoolColumns, PoolScorer, Rows
from tamis.scoring.labels.keywords import words


def build(kind: str, **options: Any) -> Any:
    return registry.build(kind, model=None, options=options, device="cpu")


def rows(**columns: Any) -> Rows:
    (first, *_) = columns.values()
    return Rows(len(first), columns, lambda: iter(()))


def score(scorer: PoolScorer, given: Rows) -> PoolColumns:
    return scorer.score_pool(given, advance=lambda n: None)


def lists(values: list[list[str]]) -> Ragged:
    indptr = np.concatenate([[0], np.cumsum([len(v) for v in values])]).astype(np.int64)
    return Ragged(indptr, np.array([x for v in values for x in v], dtype=object))


def test_tags_are_cleaned_counted_once_a_row_and_rare_ones_go() -> None:
    given = lists([["Math", "math. ", "rare"], ["math", "Cooking"], ["cooking", ""], []])
    found = score(build("tags", column="t"), rows(t=given))
    assert found.columns["labels"].tolist() == [["math"], ["math", "cooking"], ["cooking"], []]
    assert found.columns["count"].tolist() == [1, 2, 1, 0]
    assert found.labels["name"].tolist() == ["cooking", "math"]
    assert found.labels["embedding"].shape == (2, 384)
    assert found.facts["unlabelled_rows"] == 1


def test_tags_without_the_rule_and_with_a_list_of_valid_ones() -> None:
    given = lists([["Math", "math"], ["Math"], ["other"]])
    plain = build("tags", column="t", rule=False, least=1, valid=["Math", "other"])
    found = score(plain, rows(t=given))
    assert found.columns["labels"].tolist() == [["Math"], ["Math"], ["other"]]


def test_tags_of_like_meaning_take_the_name_of_the_most_frequent() -> None:
    given = lists([["movie review"], ["movie review"], ["movie reviews"], ["linear algebra"]])
    apart = score(build("tags", column="t", least=1), rows(t=given))
    assert set(apart.labels["name"]) == {"movie review", "movie reviews", "linear algebra"}
    merged = score(build("tags", column="t", least=1, merge=0.2), rows(t=given))
    assert merged.columns["labels"].tolist() == [
        ["movie review"],
        ["movie review"],
        ["movie review"],
        ["linear algebra"],
    ]


def test_tags_take_a_text_a_row_and_refuse_numbers() -> None:
    found = score(build("tags", column="t", least=1), rows(t=np.array(["a b", None], dtype=object)))
    assert found.columns["labels"].tolist() == [["a b"], []]
    with pytest.raises(DataError, match="lists of texts"):
        score(build("tags", column="t"), rows(t=np.array([1.0, 2.0])))


def test_metadata_names_the_column_and_the_point_is_that_of_the_value() -> None:
    given = rows(
        task=np.array(["qa", None, "qa"], dtype=object), level=np.array([1.0, 2.0, np.nan])
    )
    found = score(build("metadata", columns=["task", "level"]), given)
    assert found.columns["labels"].tolist() == [["task=qa", "level=1"], ["level=2"], ["task=qa"]]
    again = score(build("metadata", columns=["other"]), rows(other=given.columns["task"]))
    at = found.labels["name"].tolist().index("task=qa")
    assert np.array_equal(found.labels["embedding"][at], again.labels["embedding"][0])


def planted(n: int = 60, d: int = 8) -> np.ndarray:
    """Three directions, a row in between two of them, and one without a vector."""
    rng = np.random.default_rng(0)
    x = np.repeat(np.eye(3, d), n // 3, axis=0) + 0.02 * rng.normal(size=(n, d))
    x[0] = np.eye(d)[0] + 0.9 * np.eye(d)[1]
    x[1] = np.nan
    return x.astype(np.float32)


def test_clusters_share_rows_between_them() -> None:
    x = planted()
    found = score(build("clusters", clusters=3, most=2, floor=0.5), rows(**{"embed.vector": x}))
    labels, nearest = found.columns["labels"], found.columns["cluster"]
    assert labels[1] == [] and np.isnan(nearest[1])
    assert found.columns["reason"].tolist() == [None, "no_vector"] + [None] * 58
    assert len(labels[0]) == 2 and labels[0][0] == f"c{int(nearest[0])}"
    assert all(len(row) == 1 for row in labels[2:])
    for start in (20, 40):
        assert len(set(nearest[start : start + 20])) == 1
    # The point of a label is its centre.
    centre = found.labels["embedding"][found.labels["name"].tolist().index(labels[30][0])]
    assert centre @ np.eye(3, 8)[1] > 0.99


def test_clusters_are_the_same_again_and_with_another_seed_may_differ() -> None:
    x = planted()
    one, two = (
        score(build("clusters", clusters=5, seed=seed), rows(**{"embed.vector": x}))
        for seed in (3, 3)
    )
    assert one.columns["labels"].tolist() == two.columns["labels"].tolist()
    assert build("clusters", seed=1).identity() != build("clusters", seed=2).identity()


def test_taxonomy_gives_the_nearest_name_from_the_threshold_on() -> None:
    named = ["movie review sentiment", "arithmetic word problem"]
    scorer = build("taxonomy", names=named, least=0.35, most=1)
    texts = [
        "Is this movie review positive? A wonderful film.",
        "An arithmetic problem: 3 + 4?",
        "zz",
    ]
    vectors, _ = scorer._encoder.encode(texts)
    found = score(scorer, rows(**{"embed.vector": np.vstack([vectors, np.full(384, np.nan)])}))
    assert found.columns["labels"].tolist()[:2] == [[named[0]], [named[1]]]
    assert found.columns["labels"].tolist()[2:] == [[], []]
    assert found.columns["best"][2] in named and found.columns["best"][3] is None
    assert found.columns["reason"].tolist() == [None, None, None, "no_vector"]
    expected = (vectors @ scorer._encoder.encode(named)[0].T).max(axis=1)
    assert np.allclose(found.columns["cosine"][:3], expected, atol=1e-5)
    with pytest.raises(DataError, match="name the same model for both"):
        score(scorer, rows(**{"embed.vector": np.ones((2, 3), np.float32)}))


def test_keywords_tell_a_row_from_the_others(
    batch: Callable[..., pa.RecordBatch], pair: Callable[[str, str], list[dict[str, Any]]]
) -> None:
    asked = [f"please tell me about the {w}" for w in ["volcano", "volcano", "harbour", "harbour"]]
    asked += ["please tell me"] * 6
    made = batch([pair(q, "answer volcano") for q in asked])
    given = Rows(len(asked), {}, lambda: iter([(np.arange(len(asked)), made)]))
    scorer = build("keywords", least=2, share=0.5, phrases=False)
    found = score(scorer, given).columns["labels"].tolist()
    assert found == [["volcano"]] * 2 + [["harbour"]] * 2 + [[]] * 6


def test_keywords_follow_the_formula() -> None:
    texts = ["cat cat dog", "dog bird", "bird cat", "fish fish fish dog", "fish"]
    scorer = build("keywords", least=1, share=1.0, phrases=False, most=2)
    expected = []
    for text in texts:
        split = text.split()
        frequency = {w: sum(w in t.split() for t in texts) for w in set(split)}
        weight = {w: split.count(w) * (np.log(6 / (1 + frequency[w])) + 1) for w in set(split)}
        expected.append(sorted(weight, key=lambda w: (-round(weight[w], 9), w))[:2])
    assert scorer._terms(texts) == expected


def test_no_keyword_at_all_leaves_every_row_without_a_label() -> None:
    assert build("keywords")._terms(["the of", "", "1 2 3"]) == [[], [], []]
    assert build("keywords", least=1)._terms(["the of", "", "1 2 3"]) == [[], [], []]


def test_words_of_scripts_without_spaces_are_pairs_of_characters() -> None:
    assert words("The 天气预报 of Åland's x 2024") == ["天气", "气预", "预报", "åland"]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("tags", {"column": "t", "least": 0}),
        ("tags", {"column": "t", "merge": 2.5}),
        ("metadata", {"columns": []}),
        ("clusters", {"clusters": 0}),
        ("taxonomy", {"names": []}),
        ("taxonomy", {"names": ["a", "a"]}),
        ("keywords", {"share": 0.0}),
    ],
)
def test_options_out_of_range(kind: str, options: dict[str, Any]) -> None:
    with pytest.raises(RecipeError):
        build(kind, **options)


def test_annotated_rows_are_read_and_the_others_say_why() -> None:
    def annotated(tags: list[str], quality: list[float]) -> dict[str, Any]:
        scores = {"quality_scores": quality, "complexity_scores": [2.0] * len(quality)}
        return {"annotation": {"instag": {"content": tags}, "deita": scores}}

    objects = [annotated(["b", "a"], [3.0, 5.0]), annotated([], [1.0]), {"annotation": {}}, None]
    texts = [None if value is None else json.dumps(value) for value in objects]
    given = rows(extra=np.array(texts, dtype=object))
    found = score(build("annotations"), given)
    assert found.columns["labels"].tolist() == [["b", "a"], [], [], []]
    assert found.columns["score"][:2].tolist() == [8.0, 2.0]
    assert np.isnan(found.columns["score"][2:]).all()
    assert found.columns["reason"].tolist() == [None, None, "no_annotation", "no_annotation"]
    assert found.labels["name"].tolist() == ["a", "b"]
    only = score(build("annotations", valid=["a"]), given)
    assert only.columns["labels"].tolist()[0] == ["a"]
