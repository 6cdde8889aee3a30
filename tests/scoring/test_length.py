"""Characters, words and turns."""

from collections.abc import Callable

import pyarrow as pa
import pytest

from tamis.scoring.length import Length, words


@pytest.mark.parametrize(
    ("value", "count"),
    [
        ("", 0),
        (" \n ", 0),
        ("Hello, world!", 2),
        ("don't state-of-the-art", 2),
        ("a - b", 2),
        ("3.14", 2),
        ("Größe überall", 2),
        ("你好世界", 4),
        ("用 Python 写代码", 5),
        ("カタカナ", 4),
        ("안녕 세상", 2),
        ("𠀀a", 2),
    ],
)
def test_words(value: str, count: int) -> None:
    assert words(value) == count


def test_columns(batch: Callable[..., pa.RecordBatch]) -> None:
    rows = [
        [
            {"role": "system", "content": "never counted"},
            {"role": "user", "content": "two words"},
            {"role": "assistant", "content": "one"},
            {"role": "user", "content": "and"},
            {"role": "assistant", "content": "你好"},
        ],
        [{"role": "user", "content": "only asked"}],
    ]
    told: list[int] = []
    scorer = Length()
    found = scorer.score(batch(rows), advance=told.append)
    assert tuple(found) == scorer.fields
    assert {n: v.tolist() for n, v in found.items()} == {
        "user_chars": [len("two words\n\nand"), 10],
        "user_words": [3, 2],
        "answer_chars": [len("one\n\n你好"), 0],
        "answer_words": [3, 0],
        "all_chars": [len("two words\n\none\n\nand\n\n你好"), 10],
        "all_words": [6, 2],
        "turns": [2, 0],
    }
    assert sum(told) == 2
