"""Two long texts in windows: all of both is read where 64 pairs allow, and what is not is told."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.language.windows import MOST_PAIRS, windows


def words(texts: Sequence[str]) -> np.ndarray:
    return np.array([len(t.split()) for t in texts], dtype=np.int64)


def letters(texts: Sequence[str]) -> np.ndarray:
    return np.array([len(t) for t in texts], dtype=np.int64)


def text(sentences: int, mark: str, each: int = 4) -> str:
    return " ".join(" ".join(f"{mark}{i}.{j}" for j in range(each)) + "." for i in range(sentences))


def test_a_short_text_stays_whole_and_the_other_gets_the_rest() -> None:
    found = windows("Yes, all of it.", text(6, "w"), 12, words)
    assert {a for a, _ in found.pairs} == {"Yes, all of it."} and found.cut == 0
    assert [b.split() for _, b in found.pairs] == [
        text(6, "w").split()[k : k + 8] for k in (0, 8, 16)
    ]


def test_two_long_texts_have_half_the_room_each_and_all_windows_meet() -> None:
    one, other = text(4, "a"), text(6, "b")
    found = windows(one, other, 16, words)
    parts = [list(dict.fromkeys(p[side] for p in found.pairs)) for side in (0, 1)]
    assert ["".join(sorted(p, key=t.index)) for p, t in zip(parts, (one, other), strict=True)] == [
        one,
        other,
    ]
    assert set(found.pairs) == set(itertools.product(*parts)) and found.cut == 0
    assert all(words([a])[0] <= 8 and words([b])[0] <= 8 for a, b in found.pairs)


@settings(max_examples=60, deadline=None)
@given(
    st.text("ab .!?\n。字", max_size=60),
    st.text("cd .!?\n。字", max_size=60),
    st.integers(6, 20),
)
def test_no_letter_is_lost_and_no_window_is_too_long(one: str, other: str, room: int) -> None:
    if len(one) + len(other) <= room:
        return
    found = windows(one, other, room, letters)
    assert len(set(found.pairs)) <= MOST_PAIRS
    assert all(len(a) + len(b) <= room for a, b in found.pairs)
    if found.cut == 0:
        for side, whole in enumerate((one, other)):
            assert set("".join(p[side] for p in found.pairs)) == set(whole)


def test_what_64_pairs_leave_out_is_told() -> None:
    one, other = text(40, "a"), text(20, "b")
    found = windows(one, other, 8, words)
    assert len(found.pairs) == MOST_PAIRS == len(set(found.pairs))
    # 40 and 20 windows: like places first, so each window of both is read.
    assert found.cut == 0
    alone = windows("Yes.", text(80, "b"), 5, words)
    assert len(alone.pairs) == MOST_PAIRS
    assert [b.split()[0] for _, b in alone.pairs] == [f"b{i}.0" for i in range(MOST_PAIRS)]
    assert alone.cut == pytest.approx(16 * 4 / (80 * 4 + 1))


def test_a_sentence_longer_than_a_window_is_halved() -> None:
    found = windows("Yes.", "x " * 20, 6, words)
    assert found.cut == 0 and all(words([b])[0] <= 5 for _, b in found.pairs)
    assert "".join(b for _, b in found.pairs) == "x " * 20
    assert windows("", "x" * 9, 4, letters).cut == 0
