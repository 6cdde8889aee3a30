"""Grades and tags from a model here or behind a server: what is asked, read and refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest

from tamis.errors import RecipeError
from tamis.language.forward import Engine, Pass
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
    # "User: begin ", "\n\nAssistant: " and 906 + 7 letters; 7 of the 200 are the gap.
    assert found["cut"] == pytest.approx([1 - 193 / 932, 0])
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
    with pytest.raises(RecipeError, match=r"no config\.json"):
        registry.build("judge", model=local, options={}, device="cpu")
    endpoint = {"endpoint": {"url": "http://localhost:1/v1", "model": "m"}, "prompt_style": "chat"}
    served = Model.model_validate(endpoint)
    for kind in ("nll", "ifd", "tokens"):
        with pytest.raises(RecipeError, match="localhost:1/v1 is an endpoint"):
            registry.build(kind, model=served, options={}, device="cpu")
    with pytest.raises(RecipeError, match="highest from 2 to 9"):
        build("judge", "http://localhost:1/v1", highest=10)


@pytest.fixture(scope="module")
def lm(tiny_lm: Any) -> Model:
    """The random model of bytes with 2,048 positions."""
    folder = tiny_lm(seed=6)
    config = json.loads((folder / "config.json").read_text())
    config["max_position_embeddings"] = 2048
    (folder / "config.json").write_text(json.dumps(config))
    return Model(path=str(folder), prompt_style="chat")


def test_a_local_model_judges_by_the_digits_after_one_pass(
    lm: Model, batch: Any, pair: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tamis.language import asking

    monkeypatch.setattr(asking, "LEAST_MASS", 0.0)
    monkeypatch.setattr(asking, "sample", lambda engine, prompts, *_, **given: [*prompts])
    given = {"rubric": "Is it {short}?", "highest": 4}
    scorer = registry.build("judge", model=lm, options=given, device="cpu")
    told: list[int] = []
    rows = [pair("q", "a"), [{"role": "user", "content": "q"}], pair("long " * 800, "end")]
    found = scorer.score(batch(rows), advance=told.append)
    engine = Engine(lm, "cpu")
    task = (
        "You grade conversations between a user and an assistant. Judge by this question alone:\n"
        "Is it {short}?\nAnswer with one whole number from 1 (worst) to 4 (best) and nothing else."
    )
    text = f"<|system|>{task}<|end|><|user|>User: q\n\nAssistant: a<|end|><|assistant|>"
    ids = engine.tokenizer(text)["input_ids"]
    digits = engine.tokenizer.convert_tokens_to_ids(["1", "2", "3", "4"])
    each = [Pass([*ids, t], np.array([len(ids)])) for t in digits]
    p = np.exp(np.concatenate(engine.logprobs(each)))
    assert found["value"][0] == pytest.approx(p @ [1, 2, 3, 4] / p.sum(), abs=1e-5)
    assert found["how"].tolist() == ["logprobs", None, "logprobs"]
    assert found["reason"].tolist() == [None, "no_answer", None] and sum(told) == 3
    # What the model cannot read is left out of the middle; the rubric and the end stay.
    assert found["cut"][0] == 0 and np.isnan(found["cut"][1]) and 0.4 < found["cut"][2] < 0.7
    assert scorer.warnings == []


def test_a_local_model_that_says_no_number_gives_none(lm: Model, batch: Any, pair: Any) -> None:
    scorer = registry.build("judge", model=lm, options={}, device="cpu")
    found = scorer.score(batch([pair("q", "a")] * 3), advance=lambda n: None)
    assert np.isnan(found["value"]).all() and found["reason"].tolist() == ["no_grade_in_reply"] * 3
    assert "3 of 3 replies" in scorer.warnings[0]


def test_a_local_model_names_tags(
    lm: Model, batch: Any, pair: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tamis.language import asking
    from tamis.language.sample import Sampled

    seen: list[str] = []

    def written(engine: Engine, prompts: Any, *_: Any, **given: Any) -> list[list[Sampled]]:
        texts = [engine.tokenizer.decode(p) for p in prompts]
        seen.extend(texts)
        said = [
            '["soup"]' if "not usable" in t else "soup!" if "soup" in t else '["a"]' for t in texts
        ]
        return [[Sampled(engine.tokenizer(s)["input_ids"], True)] for s in said]

    monkeypatch.setattr(asking, "sample", written)
    scorer = registry.build("llm_tags", model=lm, options={}, device="cpu")
    found = scorer.score(batch([pair("good", "x"), pair("soup", "x")]), advance=lambda n: None)
    assert found["tags"].tolist() == [["a"], ["soup"]] and found["reason"].tolist() == [None, None]
    assert len(seen) == 3 and "<|assistant|>soup!<|end|>" in seen[2]
    long = scorer.score(batch([pair("good " * 1500, "x")]), advance=lambda n: None)
    assert 0.5 < long["cut"][0] < 1 and "Name what the user" in seen[-1]


def test_tags_of_a_list_are_no_others(serve: Serve, batch: Any, pair: Any) -> None:
    url = serve(
        reply=['["Coding", "magic"]'],
        by_content={"'magic' is none": '["writing", " CODING "]', "good": '["coding"]'},
    )
    rows = batch([pair("good", "x"), pair("soup", "x")])
    found = build("llm_tags", url, choices=["coding", "writing"]).score(
        rows, advance=lambda n: None
    )
    assert found["tags"].tolist() == [["coding"], ["writing", "coding"]]
    said = httpx.get(url).json()["requests"][0]["body"]["messages"][0]["content"]
    assert "- coding\n- writing\n" in said
    with pytest.raises(RecipeError, match="different texts"):
        build("llm_tags", url, choices=["Coding", "coding"])


def test_a_model_that_reads_too_little_is_refused(tiny_lm: Any) -> None:
    short = Model(path=str(tiny_lm()), prompt_style="chat")
    with pytest.raises(RecipeError, match="up to 160 tokens"):
        registry.build("llm_tags", model=short, options={}, device="cpu")
