"""Texts as hashed runs of words."""

import json
import re
from collections.abc import Callable
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.numerics.ragged import Ragged
from tamis.scoring import shingles

WORDS = re.compile(r"\w+")
# Letters of several scripts with spaces, marks, astral and lone surrogate code points.
TEXTS = st.lists(st.text(st.sampled_from("abAB_9 .\n'-éßİΣ\u0301한글שלםनि😀𝒳\ud800")), max_size=6)


def rows(found: Ragged) -> list[list[int]]:
    return [found.values[a:b].tolist() for a, b in pairwise(found.indptr)]


def one(text: str, n: int) -> list[int]:
    return rows(shingles.ngrams(shingles.tokens([text]), n))[0]


def one_to_one(hashes: list[list[int]], named: list[list]) -> None:
    pairs = set(zip(chain(*hashes), chain(*named), strict=True))
    assert len(pairs) == len({h for h, _ in pairs}) == len({w for _, w in pairs})


@given(TEXTS)
def test_tokens_are_the_words(texts: list[str]) -> None:
    expected = [WORDS.findall(t.lower()) for t in texts]
    found = rows(shingles.tokens(texts))
    assert [len(r) for r in found] == [len(r) for r in expected]
    one_to_one(found, expected)


@given(TEXTS, st.integers(1, 4))
def test_runs_of_words(texts: list[str], n: int) -> None:
    expected = []
    for t in texts:
        words = WORDS.findall(t.lower())
        runs = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        expected.append(runs or ([tuple(words)] if words else []))
    found = shingles.ngrams(shingles.tokens(texts), n)
    assert [len(r) for r in rows(found)] == [len(r) for r in expected]
    one_to_one(rows(found), expected)
    for row, runs in zip(rows(shingles.distinct(found)), expected, strict=True):
        assert row == sorted(row)
        assert len(row) == len(set(row)) == len(set(runs))


def test_each_character_of_a_script_without_spaces_is_a_token() -> None:
    assert len(one("机器学习是人工智能的一个分支", 1)) == 14
    assert len(one("用 Python 3 写代码。", 1)) == 6
    assert len(one("ひらがなカタカナ", 1)) == 8
    assert len(one("한국어 문장", 1)) == 2
    assert one("机器学习", 2) == [*one("机器", 2), *one("器学", 2), *one("学习", 2)]


def test_every_code_point_is_what_regular_expressions_say() -> None:
    every = [chr(i) for i in range(0x110000)]
    expected = np.array([WORDS.match(c) is not None for c in every])
    assert ((shingles._kinds() > 0) == expected).all()


def test_a_text_has_the_same_hashes_wherever_it_stands() -> None:
    texts = ["one two three", "", "one", "three two one two three", "größe zählt 数"]
    alone = [one(t, 2) for t in texts]
    assert rows(shingles.ngrams(shingles.tokens(texts), 2)) == alone
    assert rows(shingles.ngrams(shingles.tokens(texts[::-1]), 2)) == alone[::-1]
    assert alone[0][1] != alone[0][0] and alone[3][-1] == alone[0][-1]
    # The same words beside letters of another width.
    assert one("one two three é", 2)[:2] == alone[0]
    # The order of letters and of words counts.
    assert one("ab ba", 1)[0] != one("ab ba", 1)[1]
    assert one("a b", 2) != one("b a", 2)


def test_sequences_tell_texts_with_the_same_words_apart() -> None:
    found = shingles.sequences(shingles.tokens(["a b a", "A, b; a!", "a a b", "", "a b", "..."]))
    assert found[0] == found[1]
    assert found[3] == found[5] == 0
    assert len(set(found.tolist())) == 4


def test_blocks_cover_all_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shingles, "BLOCK_CHARS", 10)
    texts = ["a" * k for k in (3, 7, 1, 25, 0, 0, 10, 2)]
    found = list(shingles.blocks(texts))
    assert [a for a, _ in found] == [0, *[b for _, b in found[:-1]]]
    assert found[-1][1] == len(texts)
    assert all(sum(map(len, texts[a:b])) <= 10 or b - a == 1 for a, b in found)
    assert list(shingles.blocks([])) == []


def test_vectors_of_text_dedup(vectors: Callable[[str], Path]) -> None:
    """Runs of tokens; where its n-gram function gives no run of a short text, this gives one."""
    cases = sorted(vectors("signals").glob("textdedup_ngrams*.json"))
    assert cases
    for path in cases:
        for case in json.loads(path.read_text(encoding="utf-8")):
            words = case["tokens"]
            found = one(" ".join(words), case["n"])
            if not words:
                assert found == []
            elif len(words) < case["min_length"]:
                assert case["ngrams"] == []
                assert len(found) == max(1, len(words) - case["n"] + 1)
            else:
                expected = [one(" ".join(run), len(run))[0] for run in case["ngrams"]]
                assert sorted(set(found)) == sorted(set(expected))
                assert len(found) == len(expected)
