"""Measures of form."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tamis.scoring import shingles
from tamis.scoring.text import patterns
from tamis.scoring.text.heuristics import Heuristics, cut_off, open_fence

Batch = Callable[..., pa.RecordBatch]


@pytest.fixture
def measure(batch: Batch, pair: Callable[[str, str], Any]) -> Callable[..., dict[str, Any]]:
    """The measures of one answer."""

    def run(answer: str, view: str = "answer") -> dict[str, Any]:
        found = Heuristics(view).score(batch([pair("Why?", answer)]), advance=lambda _: None)
        assert tuple(found) == Heuristics.fields or set(found) == set(Heuristics.fields)
        return {name: values[0] for name, values in found.items()}

    return run


def test_lengths_and_kinds_of_characters(measure: Callable) -> None:
    found = measure("Don't pay 12.50 € now!")
    assert found["characters"] == 22
    assert found["words"] == 5
    assert found["mean_word_length"] == pytest.approx(np.mean([5, 3, 2, 2, 3]))
    inked = len("Don'tpay12.50€now!")
    assert found["alphabetic"] == pytest.approx(10 / inked)
    assert found["digits"] == pytest.approx(4 / inked)
    assert found["symbols"] == pytest.approx(4 / inked)


@pytest.mark.parametrize("text", ["Größe", "日本語", "नमस्ते", "e\u0301te", "مرحبا"])
def test_letters_of_all_scripts_are_letters(text: str, measure: Callable) -> None:
    assert measure(text)["alphabetic"] == 1


def test_repetition(measure: Callable) -> None:
    line = "one two three four five six seven eight nine ten"
    assert measure(line)["repeated_ngrams"] == 0
    # 21 runs of 30 words, of which 10 differ.
    found = measure("\n".join([line, line.upper(), line]))
    assert found["repeated_ngrams"] == pytest.approx(11 / 21)
    assert found["repeated_lines"] == pytest.approx(1 / 3)
    chinese = "我们都喜欢在公园里散步"
    assert measure(chinese * 3)["repeated_ngrams"] > 0.4
    assert measure("short")["repeated_ngrams"] == 0
    assert measure("a\n\na\n b\n a ")["repeated_lines"] == pytest.approx(0.5)


def test_lines(measure: Callable) -> None:
    found = measure("Steps:\n- one\n2. two...\n  * three\nand so on…\n-no")
    assert found["bullet_lines"] == pytest.approx(3 / 6)
    assert found["ellipsis_lines"] == pytest.approx(2 / 6)


def test_no_text_has_no_value(measure: Callable) -> None:
    found = measure(" \n")
    assert found["reason"] == "no_text"
    assert all(np.isnan(found[name]) for name in Heuristics.fields[:-1])
    found = measure("?!")
    assert found["reason"] is None
    assert np.isnan(found["mean_word_length"])
    assert (found["words"], found["symbols"], found["cut_off"]) == (0, 1, 0)


REFUSALS = [
    "I'm sorry, but I can't help with that.",
    "I am sorry, but as an AI I cannot provide medical advice.",
    "Sorry, I can’t assist with this request.",
    "I cannot fulfill your request.",
    "I'm unable to provide that information.",
    "As an AI language model, I cannot write such a text.",
    "Unfortunately, I am not able to answer questions like this.",
    "I apologize, but I won't generate that.",
    "抱歉，我无法提供这样的帮助。",
    "作为一个人工智能，我不能回答这个问题。",
]
ANSWERS = [
    'She said: "I cannot help you," and left.',
    "Sorry is a word that many people say too often, and they can't stop.",
    "You cannot divide by zero.",
    "I can help with that. First, open the door.",
    "Unfortunately for Rome, the empire fell.",
    "The reason you can't open the file is its owner.",
    "我无法忘记那个夏天的海边。",
    "She writes: I'm sorry for your loss.",
]


def test_refusals(measure: Callable) -> None:
    assert [t for t in REFUSALS if not measure(t)["refusal"]] == []
    assert [t for t in ANSWERS if measure(t)["refusal"]] == []
    late = "The tower is in Paris. " * 20 + "I'm sorry, but I can't help with that."
    assert measure(late)["refusal"] == 0


def test_each_turn_begins_anew(batch: Batch) -> None:
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello. " * 60},
        {"role": "user", "content": "I cannot help it."},
        {"role": "assistant", "content": "I cannot help you with that."},
    ]
    for view, expected in [("answer", 1), ("user", 1), ("all", 1)]:
        found = Heuristics(view).score(batch([turns]), advance=lambda _: None)
        assert found["refusal"].tolist() == [expected]
    found = Heuristics().score(batch([turns[:3]]), advance=lambda _: None)
    assert found["refusal"].tolist() == [0]


@pytest.mark.parametrize(
    "text",
    [
        "As an AI language model, I think so.",
        "Well, as a large language model I have no body.",
        "I'm just an AI, but here goes.",
        "I don't have personal opinions on films.",
        "My knowledge cutoff is September 2021.",
        "As of my last update, he was king.",
        "作为一个AI语言模型，我没有感情。",
    ],
)
def test_set_phrases(text: str, measure: Callable) -> None:
    assert measure(text)["boilerplate"] == 1


@pytest.mark.parametrize(
    "text",
    [
        "AI language models are trained on text.",
        "Her work as an artist made her known.",
        "I do not have time. Use a language model.",
        "My knowledge of French is small.",
        "人工智能改变了世界。",
    ],
)
def test_texts_about_models_are_no_set_phrases(text: str, measure: Callable) -> None:
    assert measure(text)["boilerplate"] == 0


def test_fences() -> None:
    assert open_fence("Look:\n```python\nprint(1)\n")
    assert not open_fence("Look:\n```python\nprint(1)\n```\nDone.")
    assert not open_fence("Write ``` to open a fence.")
    assert open_fence("~~~\nx")


@pytest.mark.parametrize(
    "text",
    [
        "The first step is to open the file and",
        "We need three things: flour, sugar,",
        "Here is the list:",
        "It rained. The dog ran home. After that the whole family sat down to eat some of",
        "It rained. The dog ran home. After that the whole family sat down and talked about life",
        "今天下雨了。小狗跑回家了。然后全家人坐下来开始一起吃晚饭并且",
        "One is done. Two is done.\n\nFor the third one you should always remember to take",
    ],
)
def test_texts_that_stop_in_the_middle(text: str) -> None:
    assert cut_off(text)


@pytest.mark.parametrize(
    "text",
    [
        "Paris",
        "The answer is 42",
        "It rained. The dog ran home. All sat down to eat.",
        'It rained. The dog ran home. "All of them sat down to eat."',
        "It rained. The dog ran home. **All of them sat down to eat.**",
        "He did. She did. So:\n```\nprint(1)\n```",
        "He did. She did. So:\n```\nprint(1) and the",
        "Buy these. Now. Please.\n- flour for the big white cake\n- sugar for the big white cake",
        "First we add. Then we see. So\nx = 3 + 4 + 5 + 6 + 7",
        "See the page. It is long. https://example.org/a/b/c/d/e/f",
        "It rained. The dog ran home.\n\nYours, Anna",
        "今天下雨了。小狗跑回家了。",
        "Is it? Yes! Done…",
        "",
        ",",
    ],
)
def test_texts_that_end(text: str) -> None:
    assert not cut_off(text)


def test_a_row_does_not_depend_on_its_batch(
    batch: Batch, pair: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["a b " * 20, "", "x1!", "日本語 text\n\n- item", *REFUSALS]
    rows = [pair("q", t) for t in texts]
    told: list[int] = []
    whole = Heuristics().score(batch(rows), advance=told.append)
    assert sum(told) == len(rows)
    monkeypatch.setattr(shingles, "BLOCK_CHARS", 10)
    alone = [Heuristics().score(batch([r]), advance=lambda _: None) for r in rows]
    for name in Heuristics.fields:
        expected = [found[name][0] for found in alone]
        np.testing.assert_array_equal(whole[name], np.array(expected, dtype=whole[name].dtype))
    assert Heuristics().score(batch([]), advance=lambda _: None)["words"].shape == (0,)


def test_patterns_take_linear_time() -> None:
    """A pattern that backtracked would not come back from these before the tests time out."""
    for text in ("as an " * 50_000, "i can " * 50_000, "sorry " * 50_000, ". " * 100_000):
        patterns.REFUSAL.search(text[: patterns.OPENING])
        assert not patterns.boilerplate(f"as of my {text}")
        assert cut_off(text) == text.endswith("an ")
