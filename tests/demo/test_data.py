"""The demo's data: deterministic, labelled truly, and clean where it says so."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import orjson
import pytest

from tamis.demo import data, defects, puzzles, skills
from tamis.demo.rows import SKEW_SHARE, SKEWED, Row
from tamis.storage.shapes import normalise
from tamis.storage.turns import Rejected

SIZES = data.Sizes(heldout=200, pretrain=3000)


@pytest.fixture(scope="module")
def pool() -> list[Row]:
    made = data.make_pool(0, SIZES)
    return [row for source in data.SOURCES for row in made[source]]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> data.DemoData:
    return data.write(tmp_path_factory.mktemp("demo"), seed=0, sizes=SIZES)


def lines(path: Path) -> list[dict]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(
    written: data.DemoData, tmp_path: Path
) -> None:
    again = data.write(tmp_path / "again", seed=0, sizes=SIZES)
    other = data.write(tmp_path / "other", seed=1, sizes=SIZES)
    for path in sorted(written.folder.iterdir()):
        assert path.read_bytes() == (again.folder / path.name).read_bytes()
        assert path.read_bytes() != (other.folder / path.name).read_bytes()


def test_as_many_rows_and_defects_as_promised(pool: list[Row], written: data.DemoData) -> None:
    counts = Counter(row.planted for row in pool)
    assert len(pool) == 2000
    assert counts == {"none": 1400, **data.DAMAGE, **data.COPIES} == written.planted
    assert len(skills.SKILLS) >= 12
    singles = {row.skill for row in pool} - {"several_turns", "system_prompt", "tool_call"}
    assert singles == set(skills.SKILLS)


@pytest.mark.parametrize("skill", sorted(skills.SKILLS))
def test_wrong_answers_are_wrong_and_look_like_right_ones(skill: str) -> None:
    import random

    rng = random.Random(5)
    cases = [skills.SKILLS[skill](rng) for _ in range(300)]
    by_key: dict[tuple[str, str], set[str]] = {}
    for case in cases:
        assert case.wrong != case.answer
        assert case.wrong[-1] == case.answer[-1]
        by_key.setdefault((case.key, case.context), set()).add(case.answer)
    assert all(len(answers) == 1 for answers in by_key.values())  # an instance has one answer


def test_answers_are_right() -> None:
    """Skills whose answer can be worked out from the question by other means than the skill's."""
    import random
    import re

    rng = random.Random(6)
    for _ in range(300):
        case = puzzles.arithmetic(rng)
        results = [
            int(a) + int(b) if sign == "+" else int(a) - int(b)
            for a, sign, b in re.findall(r"(\d+) ([+-]) (\d+)", case.question)
        ]
        assert case.answer == "{} and {}.".format(*results)
        case = puzzles.comparison(rng)
        a, b = (int(n) for n in re.findall(r"\d+", case.question))
        assert case.answer == f"{max(a, b)}."
        case = puzzles.sorting(rng)
        assert case.answer == ", ".join(sorted(case.key.split())) + "."
        case = puzzles.word_order(rng)
        assert case.answer == ", ".join(reversed(case.key.split())) + "."
        case = puzzles.letters(rng)
        assert case.answer == f"{sum(map(len, case.key.split()))}."
        case = puzzles.extraction(rng)
        name = case.answer.split()[0]
        assert name in case.question and case.answer[:-1] in case.context


def test_damage_is_what_its_label_says(pool: list[Row]) -> None:
    for row in pool:
        if row.planted == "wrong_answer":
            assert row.answer == row.wrong
        elif row.planted == "truncated":
            assert not row.answer.endswith((".", "。")) or row.answer == "Sure."
        elif row.planted == "noise":
            assert all(c in defects._DIRT + " " for c in row.answer)
        else:
            assert row.answer != row.wrong


def test_truncated_answers_are_beginnings_of_right_ones() -> None:
    import random

    from tamis.demo.rows import draw_row

    rng = random.Random(3)
    for _ in range(200):
        row = draw_row("pool", rng, 0)
        if defects.can_truncate(row):
            cut = defects.truncated(row, rng)
            assert row.answer.startswith(cut.answer) and len(cut.answer) < len(row.answer) - 1


def test_copies_have_their_original_earlier_in_the_same_file() -> None:
    for rows in data.make_pool(0, SIZES).values():
        originals: dict[str, Row] = {}
        for row in rows:
            if row.planted == "none" and row.twin:
                originals[row.twin] = row
            elif row.planted == "exact_duplicate":
                assert row.messages == originals[row.twin].messages
            elif row.planted == "near_duplicate":
                first = originals[row.twin]
                assert row.messages != first.messages and row.answer == first.answer
                ratio = difflib.SequenceMatcher(None, row.asked(), first.asked()).ratio()
                assert ratio > 0.6


def test_only_planted_copies_ask_the_same(pool: list[Row]) -> None:
    asked = [row.asked() for row in pool if row.planted not in data.COPIES]
    assert len(set(asked)) == len(asked)


def test_one_skill_is_far_too_frequent(pool: list[Row]) -> None:
    counts = Counter(row.skill for row in pool)
    assert counts[SKEWED] / len(pool) > SKEW_SHARE * 0.9
    assert all(counts[s] < counts[SKEWED] / 4 for s in skills.SKILLS if s != SKEWED)


def test_the_kinds_of_rows_are_all_there(pool: list[Row]) -> None:
    assert any(row.messages[0]["role"] == "system" for row in pool)
    calls = [row for row in pool if any(m.get("tool_calls") for m in row.messages)]
    assert calls and all(row.tools for row in calls)
    for row in calls:
        call = next(m for m in row.messages if m.get("tool_calls"))
        assert call["content"] is None
        arguments = orjson.loads(call["tool_calls"][0]["function"]["arguments"])
        assert isinstance(arguments, dict)
        result = next(m for m in row.messages if m["role"] == "tool")
        assert result["tool_call_id"] == call["tool_calls"][0]["id"]
        orjson.loads(result["content"])
    assert sum(len(row.messages) > 4 for row in pool) > 50
    assert any("ß" in row.answer or "ü" in row.answer for row in pool)
    assert any("\u4e00" <= c <= "\u9fff" for row in pool for c in row.answer)


def test_no_held_out_instance_is_in_the_pool_or_the_text(written: data.DemoData) -> None:
    held = {text for row in lines(written.heldout) for text in _instances(row["messages"])}
    seen = {text for row in lines(written.pretrain) for text in _instances(row["messages"])}
    for rows in data.make_pool(0, SIZES).values():
        seen |= {text for row in rows for text in _instances(row.messages)}
    both = held & seen
    assert len(held) > 200
    assert not both


def _instances(messages: Iterable[dict]) -> list[str]:
    """Every question; what a tool gave belongs to its question."""
    asked: list[str] = []
    for message in messages:
        if message["role"] == "user":
            asked.append(message["content"])
        elif message["role"] == "tool":
            asked[-1] += message["content"]
    return asked


@pytest.mark.parametrize("skill", sorted(skills.SKILLS))
def test_instances_are_split_by_their_key_alone(skill: str) -> None:
    import random

    rng = random.Random(1)
    split_of: dict[str, str] = {}
    for split in ("pretrain", "pool", "heldout"):
        for _ in range(60):
            key = skills.draw_from(skill, split, rng, 0).key
            assert split_of.setdefault(key, split) == split


def test_held_out_rows_are_clean_and_distinct(written: data.DemoData) -> None:
    rows = lines(written.heldout)
    assert len(rows) == 200 and all(row["planted"] == "none" for row in rows)
    assert len({orjson.dumps(row["messages"]) for row in rows}) == 200


def test_every_shape_is_read_and_every_broken_line_refused(written: data.DemoData) -> None:
    accepted, refused, shapes = 0, 0, Counter()
    for path in written.pool.values():
        for line in path.read_bytes().splitlines():
            try:
                shaped = normalise(orjson.loads(line))
            except (orjson.JSONDecodeError, Rejected):
                refused += 1
                continue
            accepted += 1
            shapes[shaped.shape] += 1
    assert (accepted, refused) == (2000, written.rejects)
    assert set(shapes) == {"alpaca", "messages", "sharegpt"}
