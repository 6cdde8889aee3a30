"""Annotated rows as MIG reads them: the stored rows, and what makes a row unreadable."""

import json
import math

import pytest

from tamis.scoring.labels.annotations import read


def test_stored_rows(vectors):
    case = json.loads((vectors("mig") / "text_end_to_end.json").read_text())
    valid = set(case["valid_tags"])
    found = [read(row.get("annotation"), valid) for row in case["rows"]]
    kept = [i for i, one in enumerate(found) if one.tags is not None]
    assert [case["rows"][i]["_id"] for i in kept] == case["kept_ids"]
    assert [found[i].tags for i in kept] == case["kept_labels"]
    assert [found[i].score for i in kept] == pytest.approx(case["kept_scores"], rel=1e-12)
    assert sorted({tag for i in kept for tag in found[i].tags}) == case["graph_labels"]
    # Each way of having no annotation occurs, and a row without valid tags stays.
    assert {one.reason for one in found} == {"", "no_annotation", "no_scores"}
    assert [] in [found[i].tags for i in kept]


def annotated(tags=("a", "b", "a"), quality=(2.0, 3.0), complexity=(4, 1)):
    scores = {"quality_scores": list(quality), "complexity_scores": list(complexity)}
    return {"instag": {"content": list(tags)}, "deita": scores}


def test_score_is_the_mean_of_products_and_tags_keep_their_order():
    assert read(annotated()) == (["a", "b", "a"], 5.5, "")
    assert read(annotated(), {"b"}).tags == ["b"]
    assert read(annotated(tags=()), {"b"}) == ([], 5.5, "")


@pytest.mark.parametrize(
    "annotation, reason",
    [
        (None, "no_annotation"),
        ({}, "no_annotation"),
        ("text", "no_annotation"),
        (annotated() | {"instag": {}}, "no_tags"),
        (annotated() | {"instag": None}, "no_tags"),
        (annotated() | {"instag": {"content": None}}, "no_tags"),
        (annotated() | {"instag": {"content": "abc"}}, "no_tags"),
        (annotated() | {"instag": {"content": ["a", None]}}, "no_tags"),
        (annotated() | {"deita": {}}, "no_scores"),
        ({"instag": {"content": ["a"]}}, "no_scores"),
        (annotated() | {"deita": {"quality_scores": [1.0]}}, "no_scores"),
        (annotated(quality=(), complexity=()), "no_scores"),
        (annotated(quality=(1.0,)), "turns_differ"),
        (annotated(quality=(1.0, None)), "bad_score"),
        (annotated(quality=(1.0, math.nan)), "bad_score"),
        (annotated(complexity=(1.0, True)), "bad_score"),
    ],
)
def test_what_cannot_be_read_has_a_reason(annotation, reason):
    found = read(annotation)
    assert found.tags is None and math.isnan(found.score) and found.reason == reason
