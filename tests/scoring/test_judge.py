"""Grades and tags from a served model: what is asked, what is read, what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tamis.errors import RecipeError
from tamis.language.replies import Reply
from tamis.recipe import Model
from tamis.scoring import registry
from tamis.scoring.asked import shortened
from tamis.scoring.judge import grade
from tamis.scoring.labels.llm_tags import parsed

Serve = Callable[..., str]


def build(kind: str, url: str, **options: Any) -> Any:
    endpoint = {"url": url, "model": "m", "retries": 1}
    model = Model.model_validate({"endpoint": endpoint, "prompt_style": "chat"})
    return registry.build(kind, model=model, options=options, device="cpu")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4", 4),
        (" 6.", 6),
        ("Grade: 2", 2),
        ("5/6", 5),
        ("5 out of 6", 5),
        ("3 3", 3),
        ("", None),
        ("good", None),
        ("7", None),
        ("0", None),
        ("-3", None),
        ("3.5", None),
        ("12", None),
        ("between 2 and 4", None),
    ],
)
def test_grades_read_from_text(text: str, value: int | None) -> None:
    found, how = grade(Reply(text, ()), 6)
    assert (found, how) == (value, "parsed") if value else (math.isnan(found) and how is None)


def test_grades_read_from_likely_tokens() -> None:
    likely = {str(k): math.log(k / 30) for k in range(1, 7)}
    # " 6" is the digit with a space before it; letters do not count.
    likely |= {" 6": math.log(6 / 30), "x": -0.1, "7": -0.1}
    weights = [1, 2, 3, 4, 5, 12]
    expected = sum(k * w for k, w in enumerate(weights, 1)) / sum(weights)
    tokens = (("\n", {"1": -0.1}), ("6", likely))
    assert grade(Reply("\n6", tokens), 6) == (pytest.approx(expected), "logprobs")
    # With a digit missing the expectation is not known: the text is what is left.
    del likely["3"]
    assert grade(Reply("\n6", tokens), 6) == (6.0, "parsed")


def test_judge_grades_rows(serve: Serve, batch: Any, pair: Any) -> None:
    url = serve(by_content={"poor": "1", "vague": "maybe"}, reply=["5"])
    rows = [pair("q", "fine"), pair("q", "poor"), pair("q", "vague"), pair("q", "")]
    told: list[int] = []
    scorer = build("judge", url, rubric="Is it {short}?")
    found = scorer.score(batch(rows), advance=told.append)
    assert found["value"].tolist()[:2] == [5, 1] and math.isnan(found["value"][2])
    assert found["how"].tolist() == ["parsed", "parsed", None, None]
    assert found["reason"].tolist() == [None, None, "no_grade_in_reply", "no_answer"]
    assert sum(told) == 4
    bodies = [r["body"] for r in httpx.get(url).json()["requests"]]
    assert len(bodies) == 3 and all(b["top_logprobs"] == 20 for b in bodies)
    assert "Is it {short}?" in bodies[0]["messages"][0]["content"]
    assert bodies[0]["messages"][1]["content"].startswith("User: q\n\nAssistant: ")


def test_judge_takes_the_expectation_where_it_is_told(serve: Serve, batch: Any, pair: Any) -> None:
    url = serve(reply=["2"], top={"1": math.log(0.25), "2": math.log(0.75)})
    found = build("judge", url, highest=2).score(batch([pair("q", "a")]), advance=lambda n: None)
    assert found["value"][0] == pytest.approx(1.75) and found["how"][0] == "logprobs"


def test_long_rows_are_cut_and_flagged(serve: Serve, batch: Any, pair: Any) -> None:
    url = serve(reply=["2"])
    rows = [pair("begin " + "x" * 900, "the end"), pair("q", "a")]
    found = build("judge", url, max_chars=200).score(batch(rows), advance=lambda n: None)
    assert found["truncated"].tolist() == [True, False]
    contents = [r["body"]["messages"][1]["content"] for r in httpx.get(url).json()["requests"]]
    (long,) = (c for c in contents if len(c) > 100)
    assert len(long) == 200 and long.startswith("User: begin") and long.endswith("the end")
    assert shortened("abc", 3) == ("abc", False)


def test_refused_rows_have_a_reason(serve: Serve, batch: Any, pair: Any) -> None:
    url = serve(reply=['["a"]'], faults=[400], forever=True, mark="tedious")
    rows = batch([pair("q", "short"), pair("tedious", "tedious")])
    found = build("llm_tags", url).score(rows, advance=lambda n: None)
    assert found["reason"].tolist() == [None, "refused_by_endpoint"]
    found = build("judge", url).score(rows, advance=lambda n: None)
    assert found["reason"].tolist() == ["no_grade_in_reply", "refused_by_endpoint"]


@pytest.mark.parametrize(
    ("reply", "tags"),
    [
        ('["python", "sorting  algorithm"]', ["python", "sorting algorithm"]),
        ('```json\n["a", "b", "a"]\n```', ["a", "b"]),
        ('Here: ["x"]. Enjoy', ["x"]),
        ('["a","b","c","d","e","f"]', ["a", "b", "c", "d", "e", "f"]),
    ],
)
def test_tags_that_are_read(reply: str, tags: list[str]) -> None:
    assert parsed(reply) == (tags, None)


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        ("python, sorting", "no JSON array"),
        ("[python]", "no valid JSON"),
        ('["a", 3]', "strings only"),
        ('[["a"]]', "strings only"),
        ("[]", "0 strings"),
        ('["a","b","c","d","e","f","g"]', "7 strings"),
        ('["a", " "]', "empty or too long"),
        ('["one two three four five six seven"]', "empty or too long"),
        (f'["{"x" * 61}"]', "empty or too long"),
        ("] [", "no JSON array"),
        ("[" * 5000 + "]" * 5000, "JSON|strings"),
    ],
)
def test_tags_that_are_not(reply: str, problem: str) -> None:
    tags, told = parsed(reply)
    import re

    assert tags == [] and told is not None and re.search(problem, told)


def test_tags_are_asked_for_again_once_and_then_left_out(
    serve: Serve, batch: Any, pair: Any
) -> None:
    url = serve(
        by_content={"That was not usable: there is no JSON array": '["cooking"]', "good": '["a"]'},
        reply=["cooking!"],
    )
    rows = [pair("good", "x"), pair("soup", "x"), [{"role": "assistant", "content": "y"}]]
    told: list[int] = []
    found = build("llm_tags", url).score(batch(rows), advance=told.append)
    assert found["tags"].tolist() == [["a"], ["cooking"], []]
    assert found["reason"].tolist() == [None, None, "no_text"] and sum(told) == 3
    requests = [r["body"]["messages"] for r in httpx.get(url).json()["requests"]]
    assert sorted(len(m) for m in requests) == [2, 2, 4]
    stubborn = serve(reply=["no"])
    found = build("llm_tags", stubborn).score(batch(rows[:1]), advance=lambda n: None)
    assert found["tags"].tolist() == [[]] and found["reason"].tolist() == ["no_valid_tags"]
    assert len(httpx.get(stubborn).json()["requests"]) == 2


def test_local_models_and_endpoints_are_told_apart(tmp_path: Any) -> None:
    local = Model(path=str(tmp_path), prompt_style="chat")
    with pytest.raises(RecipeError, match="judge asks a server"):
        registry.build("judge", model=local, options={}, device="cpu")
    endpoint = {"endpoint": {"url": "http://localhost:1/v1", "model": "m"}, "prompt_style": "chat"}
    served = Model.model_validate(endpoint)
    for kind in ("nll", "ifd", "tokens"):
        with pytest.raises(RecipeError, match="localhost:1/v1 is an endpoint"):
            registry.build(kind, model=served, options={}, device="cpu")
    with pytest.raises(RecipeError, match="highest from 2 to 9"):
        build("judge", "http://localhost:1/v1", highest=10)
