"""Ingest as a whole: nothing lost, everything counted, the same after any kill, little memory."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.errors import DataError, TamisError
from tamis.pipelines import ingest
from tamis.recipe import Source
from tamis.samples import COLUMNS, MESSAGES, content_key, decode_messages, decode_tools, sample_id
from tamis.storage import files, hub
from tamis.storage.artifact import Artifact, Store
from tamis.storage.shards import MOST_COLUMNS, REJECTED, column_names


@contextmanager
def no_progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    yield lambda rows: None


def take(store: Path, source: Source | str | list[str], name: str = "pool") -> Artifact:
    if not isinstance(source, Source):
        source = Source(path=source)
    made, _ = ingest.ingest_source(
        Store(store), name, source, say=lambda text: None, progress=no_progress
    )
    return made


def samples(made: Artifact) -> pa.Table:
    return pa.concat_tables(pq.read_table(part) for part in sorted(made.path.glob("part-*")))


def rejected(made: Artifact) -> list[tuple[str, int, str]]:
    table = pa.concat_tables(pq.read_table(p) for p in sorted(made.path.glob("rejected-*")))
    assert table.schema == REJECTED
    return [(row["file"], row["line"], row["reason"]) for row in table.to_pylist()]


def lines(path: Path, rows: list[Any]) -> str:
    path.write_bytes(b"".join((r if type(r) is bytes else orjson.dumps(r)) + b"\n" for r in rows))
    return str(path)


def pair(number: int, **more: Any) -> dict[str, Any]:
    return {"instruction": f"question {number}", "output": f"answer {number}", **more}


# -- what comes out ------------------------------------------------------------------------------


def test_the_table_of_samples(tmp_path: Path) -> None:
    rows = [
        pair(1, id=7, score=1, topic="x", tags=["a"], when={"y": 1}),
        pair(2, id=8, score=0.5, topic=None, licence="MIT"),
        pair(1, id=9, score=2, topic="y"),
        {"messages": [{"role": "user", "content": "only asked"}]},
        b"{broken",
    ]
    made = take(tmp_path / "s", Source(path=lines(tmp_path / "a.jsonl", rows), licence="CC0-1.0"))
    table = samples(made)
    assert table.schema.names == [*COLUMNS.names, "orig_id", "score", "topic", "extra"]
    for field in COLUMNS:
        assert table.schema.field(field.name).type == field.type
    assert table.column("messages").type == MESSAGES
    one = {"role": "user", "content": "question 1"}
    key = content_key([one, {"role": "assistant", "content": "answer 1"}])
    assert table.column("content_key").to_pylist()[::2] == [key, key]
    assert table.column("occurrence").to_pylist() == [0, 0, 1]
    assert table.column("duplicate").to_pylist() == [False, False, True]
    assert table.column("id").to_pylist()[2] == sample_id("pool", key, 1)
    assert table.column("source").to_pylist() == ["pool"] * 3
    assert table.column("licence").to_pylist() == ["CC0-1.0", "MIT", "CC0-1.0"]
    assert table.column("origin").to_pylist() == ["a.jsonl:1", "a.jsonl:2", "a.jsonl:3"]
    assert table.column("shape").to_pylist() == ["alpaca"] * 3
    assert table.column("orig_id").to_pylist() == [7, 8, 9]
    assert table.column("score").to_pylist() == [1.0, 0.5, 2.0]
    assert table.column("topic").to_pylist() == ["x", None, "y"]
    extra = [None if e is None else orjson.loads(e) for e in table.column("extra").to_pylist()]
    assert extra == [{"tags": ["a"], "when": {"y": 1}}, None, None]
    assert rejected(made) == [("a.jsonl", 4, "no_assistant"), ("a.jsonl", 5, "invalid_json")]
    facts = made.facts
    assert facts["accepted"] == 3 and facts["rows"] == 5 and facts["duplicates"] == 1
    assert facts["rejected"] == {"invalid_json": 1, "no_assistant": 1}
    assert facts["files"] == ["a.jsonl"] and facts["name"] == "pool"
    assert facts["columns"] == ["orig_id", "score", "topic"]
    assert facts["bytes"] == (tmp_path / "a.jsonl").stat().st_size
    assert facts["rows_per_second"] > 0


def test_nothing_but_samples_and_rejected_is_sealed(tmp_path: Path) -> None:
    made = take(tmp_path / "s", lines(tmp_path / "a.jsonl", [pair(1)]))
    assert sorted(made.seal["files"]) == ["part-00000.parquet", "rejected-00000.parquet"]
    assert rejected(made) == []


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ([1, 2, None], [1, 2, None]),
        ([1, 0.5, None], [1.0, 0.5, None]),
        ([True, False], [True, False]),
        ([1, True], ["1", "true"]),
        ([1, 0.5, "x"], ["1", "0.5", "x"]),
        ([True, "true", None], ["true", "true", None]),
        ([2**64 - 1, 1], ["18446744073709551615", "1"]),
        ([2**63, 0.5], ["9223372036854775808", "0.5"]),
        ([-(2**63), 2**63 - 1], [-(2**63), 2**63 - 1]),
        (["a", ["l"]], ["a", None]),
    ],
)
@pytest.mark.parametrize("shard_rows", [1, 2, 100])
def test_types_of_columns_are_those_of_all_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: list[Any], kept: Any, shard_rows: int
) -> None:
    """Whatever the shards are, the columns are the same."""
    monkeypatch.setattr(ingest, "SHARD_ROWS", shard_rows)
    rows = [pair(i, value=value) for i, value in enumerate(values)]
    found = samples(take(tmp_path / "s", lines(tmp_path / "a.jsonl", rows))).column("value")
    assert found.to_pylist() == kept
    assert [type(v) for v in found.to_pylist()] == [type(v) for v in kept]


@pytest.mark.parametrize("shard_rows", [1, 100])
def test_not_a_number_stays_so_when_files_disagree_on_a_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard_rows: int
) -> None:
    monkeypatch.setattr(ingest, "SHARD_ROWS", shard_rows)
    columns = {"f": [float("nan"), float("inf")], "i": [1, 2], "s": ["x", "y"]}
    for name, values in columns.items():
        rows = pa.Table.from_pylist([pair(i) for i in range(2)])
        pq.write_table(rows.append_column("v", pa.array(values)), tmp_path / f"{name}.parquet")
    numbers = take(tmp_path / "s", [str(tmp_path / f"{n}.parquet") for n in "fi"])
    found = samples(numbers).column("v").to_pylist()
    assert found[0] != found[0] and found[1:] == [float("inf"), 1.0, 2.0]
    mixed = samples(take(tmp_path / "s", [str(tmp_path / f"{n}.parquet") for n in "fis"]))
    assert mixed.column("v").to_pylist() == ["NaN", "Infinity", "1", "2", "x", "y"]


def test_names_that_collide() -> None:
    names = ["id", "orig_id", "ID", "Topic", "topic", "extra", "source", ""]
    assert column_names(names) == {
        "id": "orig_orig_id",
        "orig_id": "orig_id",
        "ID": "orig_orig_orig_ID",
        "Topic": "Topic",
        "topic": "orig_topic",
        "extra": "orig_extra",
        "source": "orig_source",
        "": "orig_",
    }


def test_data_used_as_keys_does_not_make_columns_without_end(tmp_path: Path) -> None:
    rows = [pair(i, **{f"key {i}": i}) for i in range(MOST_COLUMNS + 20)]
    table = samples(take(tmp_path / "s", lines(tmp_path / "a.jsonl", rows)))
    assert table.num_columns == len(COLUMNS) + MOST_COLUMNS + 1
    extra = table.column("extra").to_pylist()[MOST_COLUMNS:]
    assert [orjson.loads(e) for e in extra] == [
        {f"key {i}": i} for i in range(MOST_COLUMNS, MOST_COLUMNS + 20)
    ]


def test_scalars_of_parquet_that_json_does_not_know(tmp_path: Path) -> None:
    import datetime
    import decimal

    table = pa.table(
        {
            "instruction": pa.array(["q"], pa.large_string()),
            "output": pa.array(["a"]).dictionary_encode(),
            "day": [datetime.date(2024, 1, 2)],
            "at": [datetime.datetime(2024, 1, 2, 3, 4, 5)],
            "price": [decimal.Decimal("1.50")],
            "image": [b"\x00\xff"],
            "nan": [float("nan")],
            "nested": [[{"t": datetime.date(2024, 1, 2), "b": b"\x01", "d": decimal.Decimal("2")}]],
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    (row,) = samples(take(tmp_path / "s", str(tmp_path / "a.parquet"))).to_pylist()
    assert (row["day"], row["at"], row["price"]) == ("2024-01-02", "2024-01-02T03:04:05", "1.50")
    assert row["nan"] != row["nan"]
    assert orjson.loads(row["extra"]) == {
        "image": {"base64": "AP8="},
        "nested": [{"t": "2024-01-02", "b": {"base64": "AQ=="}, "d": "2"}],
    }


def test_values_that_cannot_be_stored_make_a_bad_row(tmp_path: Path) -> None:
    deep: Any = []
    for _ in range(400):
        deep = [deep]
    turn = {"role": "assistant", "content": "a", "deep": deep}
    text = b'{"messages": [%s]}' % repr(turn).replace("'", '"').encode()
    made = take(tmp_path / "s", lines(tmp_path / "a.jsonl", [pair(1), text, pair(2)]))
    assert rejected(made) == [("a.jsonl", 2, "bad_value")]


def test_rejected_text_is_cut(tmp_path: Path) -> None:
    bad = ["{" + "\u20ac" * 2000, b"\xff" * 3000, orjson.dumps({"output": "x" * 5000}).decode()]
    rows = [r.encode() if isinstance(r, str) else r for r in bad]
    made = take(tmp_path / "s", lines(tmp_path / "a.jsonl", [*rows, pair(1)]))
    texts = pq.read_table(made.path / "rejected-00000.parquet").column("text").to_pylist()
    assert texts[0] == "{" + "\u20ac" * 682
    assert all(2040 <= len(text.encode()) <= 2048 for text in texts)
    assert texts[2].startswith('{"output":"xxx')


def test_files_of_rejected_rows_are_numbered_without_gaps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "SHARD_ROWS", 2)
    rows = [pair(1), pair(2), b"broken", b"broken", pair(3), pair(4), b"broken"]
    made = take(tmp_path / "s", lines(tmp_path / "a.jsonl", rows))
    assert sorted(made.seal["files"]) == [
        *("part-00000.parquet", "part-00001.parquet"),
        *("rejected-00000.parquet", "rejected-00001.parquet"),
    ]
    assert [line for _, line, _ in rejected(made)] == [3, 4, 7]


def test_limit_takes_the_first_rows_over_files(tmp_path: Path) -> None:
    one = lines(tmp_path / "a.jsonl", [pair(1), b"broken", pair(2)])
    two = lines(tmp_path / "b.jsonl", [pair(3), pair(4)])
    made = take(tmp_path / "s", Source(path=[one, two], limit=4))
    assert samples(made).column("origin").to_pylist() == ["a.jsonl:1", "a.jsonl:3", "b.jsonl:1"]
    assert made.facts["rows"] == 4
    made = take(tmp_path / "s", Source(path=[one, two], limit=3))
    assert made.facts["rows"] == 3


def test_the_same_rows_in_every_format(tmp_path: Path) -> None:
    rows = [pair(i, note="n") for i in range(50)]
    text = b"\n".join(orjson.dumps(row) for row in rows)
    (tmp_path / "a.jsonl").write_bytes(text)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(text))
    (tmp_path / "a.json").write_bytes(orjson.dumps(rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    cells = [f"{r['instruction']},{r['output']},n" for r in rows]
    (tmp_path / "a.csv").write_text("instruction,output,note\n" + "\n".join(cells))
    tables = [
        samples(take(tmp_path / "s", str(tmp_path / name))).drop_columns(["origin"])
        for name in ("a.jsonl", "a.jsonl.gz", "a.json", "a.parquet", "a.csv")
    ]
    assert all(table.equals(tables[0]) for table in tables)
    assert tables[0].num_rows == 50


# -- reuse ---------------------------------------------------------------------------------------


def test_the_key_is_the_content_and_not_the_place(tmp_path: Path) -> None:
    rows = [pair(i) for i in range(3)]
    (tmp_path / "elsewhere").mkdir()
    here, there = lines(tmp_path / "a.jsonl", rows), lines(tmp_path / "elsewhere/b.jsonl", rows)
    other = lines(tmp_path / "c.jsonl", rows[:2])
    first = take(tmp_path / "s", here)
    again, reused = ingest.ingest_source(
        Store(tmp_path / "s"), "pool", Source(path=there), say=print, progress=no_progress
    )
    assert reused and again == first
    keys = {
        first.key,
        take(tmp_path / "s", other).key,
        take(tmp_path / "s", here, name="other").key,
        take(tmp_path / "s", Source(path=here, limit=2)).key,
        take(tmp_path / "s", Source(path=here, licence="MIT")).key,
        take(tmp_path / "s", [here, other]).key,
        take(tmp_path / "s", [other, here]).key,
    }
    assert len(keys) == 7
    assert str(tmp_path) not in orjson.dumps(first.seal["inputs"]).decode()


# -- bad files -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b'[{"instruction": "q", "output": "a"}', "not terminated"),
        ("a.jsonl.gz", gzip.compress(b"{}\n" * 5000, mtime=0)[:-10], "truncated or damaged"),
        ("a.parquet", b"PAR1 nothing", "not a whole Parquet file"),
        ("a.jsonl", b"", "is empty"),
        ("a.jsonl", b"\n \n", "holds no rows"),
        ("a.jsonl", b"broken\n{}\n", "no usable row among 2 .*invalid_json 1"),
        ("a.txt", b"text", "suffix that is not known"),
    ],
)
def test_a_bad_file_is_one_clear_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes, message: str
) -> None:
    monkeypatch.setattr(ingest, "SHARD_ROWS", 2)
    (tmp_path / name).write_bytes(content)
    good = lines(tmp_path / "0.jsonl", [pair(i) for i in range(5)])
    paths = [str(tmp_path / name)] if "usable" in message else [good, str(tmp_path / name)]
    with pytest.raises(DataError, match=message) as caught:
        take(tmp_path / "s", paths)
    assert "\n" not in str(caught.value) and name in str(caught.value)
    assert Store(tmp_path / "s").all("samples") == []
    assert list((tmp_path / "s").glob("samples/*")) == []


# -- properties ----------------------------------------------------------------------------------

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
said = words.filter(str.strip)
json_values = st.recursive(
    st.booleans() | st.integers(-(2**40), 2**40) | st.floats(-1e6, 1e6) | words,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(words, inner, max_size=2),
    max_leaves=4,
)
calls = st.lists(
    st.fixed_dictionaries(
        {"type": st.just("function"), "function": st.fixed_dictionaries({"name": said})},
        optional={"id": words, "index": st.integers(0, 3)},
    ),
    min_size=1,
    max_size=2,
)
flags = {"train": st.booleans(), "name": words, "weight": json_values, "extra": json_values}
asking = st.fixed_dictionaries({"role": st.just("user"), "content": words}, optional=flags)
telling = st.fixed_dictionaries(
    {"role": st.just("tool"), "content": words}, optional={**flags, "tool_call_id": words}
)
answering = st.fixed_dictionaries(
    {"role": st.just("assistant"), "content": said}, optional={**flags, "tool_calls": calls}
)
calling = st.fixed_dictionaries(
    {"role": st.just("assistant"), "content": st.none() | words, "tool_calls": calls},
    optional=flags,
)
system = st.fixed_dictionaries({"role": st.just("system"), "content": words}, optional=flags)
turns = st.lists(asking | telling | answering | calling, max_size=4)
conversations = st.builds(
    lambda first, middle, last: [*first, *middle, last],
    st.lists(system, max_size=1),
    turns,
    answering | calling,
)
tool_lists = st.lists(st.dictionaries(words, json_values, min_size=1, max_size=2), max_size=2)


@given(st.lists(st.tuples(conversations, tool_lists), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_conversations_come_out_as_they_went_in(
    tmp_path_factory: pytest.TempPathFactory, given_rows: list[tuple[Any, Any]]
) -> None:
    folder = tmp_path_factory.mktemp("ingest")
    rows = [{"messages": messages, "tools": tools} for messages, tools in given_rows]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ingest, "SHARD_ROWS", 2)
        patch.setattr(files.os, "fsync", lambda handle: None)
        made = take(folder / "s", lines(folder / "a.jsonl", rows))
    table = samples(made)
    assert decode_messages(table.column("messages")) == [messages for messages, _ in given_rows]
    assert decode_tools(table.column("tools")) == [tools or None for _, tools in given_rows]
    keys = [content_key(messages, tools or None) for messages, tools in given_rows]
    assert table.column("content_key").to_pylist() == keys
    assert table.column("duplicate").to_pylist() == [k in keys[:i] for i, k in enumerate(keys)]
    assert len(set(table.column("id").to_pylist())) == len(rows)


some_rows = st.lists(
    st.sampled_from(
        [
            orjson.dumps(pair(1)),
            orjson.dumps(pair(2, n=1)),
            orjson.dumps(pair(2, n=1.5)),
            orjson.dumps({"prompt": "q", "completion": "a", "n": "x"}),
            b"{broken",
            b"[]",
            b"{}",
            b'{"instruction": "q", "output": " "}',
        ]
    ),
    min_size=1,
    max_size=12,
)


@given(st.lists(some_rows, min_size=1, max_size=3), st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_every_row_is_accounted_for_and_the_order_of_files_changes_no_content(
    tmp_path_factory: pytest.TempPathFactory, contents: list[list[bytes]], rng: Any
) -> None:
    folder = tmp_path_factory.mktemp("ingest")
    contents[0].append(orjson.dumps(pair(3)))
    paths = [lines(folder / f"{i}.jsonl", rows) for i, rows in enumerate(contents)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ingest, "SHARD_ROWS", 3)
        patch.setattr(files.os, "fsync", lambda handle: None)
        made = take(folder / "s", paths)
        rng.shuffle(paths)
        other = take(folder / "t", paths)
    table = samples(made)
    facts = made.facts
    assert facts["rows"] == sum(map(len, contents))
    assert facts["accepted"] + sum(facts["rejected"].values()) == facts["rows"]
    assert facts["accepted"] == table.num_rows
    assert len(rejected(made)) == sum(facts["rejected"].values())
    ids = table.column("id").to_pylist()
    assert len(set(ids)) == len(ids)
    assert facts["duplicates"] == len(ids) - len(set(table.column("content_key").to_pylist()))
    for column in ("content_key", "id"):
        theirs = samples(other).column(column).to_pylist()
        assert sorted(theirs) == sorted(table.column(column).to_pylist())


# -- kills ---------------------------------------------------------------------------------------


class Killed(BaseException):
    """Not an Exception: nothing may catch it and go on."""


def mixed(tmp_path: Path) -> list[str]:
    rows = [pair(i % 9, n=i if i % 3 else i / 2, **{f"c{i // 8}": "x"}) for i in range(20)]
    rows.insert(4, b"{broken")
    rows.insert(15, {"text": "no shape"})
    one = lines(tmp_path / "a.jsonl", rows)
    (tmp_path / "b.json").write_bytes(orjson.dumps([pair(i, n="text") for i in range(5)]))
    pq.write_table(pa.Table.from_pylist([pair(i) for i in range(7)]), tmp_path / "c.parquet")
    (tmp_path / "d.jsonl.gz").write_bytes(
        gzip.compress(b"\n".join(orjson.dumps(pair(i)) for i in range(6)))
    )
    return [one, *(str(tmp_path / name) for name in ("b.json", "c.parquet", "d.jsonl.gz"))]


@pytest.mark.parametrize("instant", ["before", "after"])
def test_killed_at_any_write_or_removal_it_goes_on_to_the_same_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, instant: str
) -> None:
    monkeypatch.setattr(ingest, "SHARD_ROWS", 6)
    monkeypatch.setattr(files.os, "fsync", lambda handle: None)
    paths = mixed(tmp_path)
    whole = take(tmp_path / "undisturbed", paths)
    wanted = {name: entry["sha256"] for name, entry in whole.seal["files"].items()}
    assert whole.facts["duplicates"] == 29 and len(wanted) > 6

    steps = {"count": 0, "kill": 0}

    def killing(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            steps["count"] += 1
            if instant == "before" and steps["count"] == steps["kill"]:
                raise Killed
            result = function(*arguments, **options)
            if instant == "after" and steps["count"] == steps["kill"]:
                raise Killed
            return result

        return wrapped

    replace, unlink = files.os.replace, Path.unlink
    monkeypatch.setattr(files.os, "replace", killing(replace))
    monkeypatch.setattr(Path, "unlink", killing(unlink))
    kill = 0
    while True:
        kill += 1
        steps.update(count=0, kill=kill)
        try:
            made = take(tmp_path / f"killed {kill}", paths)
            break  # the kill would have come after the end
        except Killed:
            steps.update(kill=0)
        made = take(tmp_path / f"killed {kill}", paths)
        assert {n: e["sha256"] for n, e in made.seal["files"].items()} == wanted, kill
        facts = {k: v for k, v in made.facts.items() if k not in ("seconds", "rows_per_second")}
        assert facts.items() <= whole.facts.items()
    assert kill > 40


def test_finished_shards_are_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was parsed before the kill is not parsed after it."""
    monkeypatch.setattr(ingest, "SHARD_ROWS", 10)
    path = lines(tmp_path / "a.jsonl", [pair(i) for i in range(95)])
    parsed: list[bytes] = []
    parse, write = ingest.readers.parse, ingest.shards.write_raw

    def counted(text: bytes) -> Any:
        parsed.append(text)
        return parse(text)

    def killed_at_the_fifth(target: Path, table: pa.Table) -> None:
        if target.name == "raw-00004.arrow":
            raise Killed
        write(target, table)

    monkeypatch.setattr(ingest.readers, "parse", counted)
    monkeypatch.setattr(ingest.shards, "write_raw", killed_at_the_fifth)
    with pytest.raises(Killed):
        take(tmp_path / "s", path)
    assert len(parsed) == 50
    parsed.clear()
    monkeypatch.setattr(ingest.shards, "write_raw", write)
    assert take(tmp_path / "s", path).facts["rows"] == 95
    assert len(parsed) == 55


# -- memory --------------------------------------------------------------------------------------

PEAK = """
import re, sys
from contextlib import nullcontext
from tamis.pipelines import ingest
from tamis.recipe import Source
from tamis.storage.artifact import Store
ingest.SHARD_ROWS = 1000
made, _ = ingest.ingest_source(Store(sys.argv[2]), "m", Source(path=sys.argv[1]), say=print,
                               progress=lambda title, total: nullcontext(lambda rows: None))
# not getrusage: it starts from what the parent of the process held
status = open("/proc/self/status").read()
print(made.facts["accepted"], 1024 * int(re.search("VmHWM:[^0-9]+([0-9]+)", status)[1]))
"""
# One heap that gives memory back: what threads and pools keep for themselves differs from run to
# run by more than what is measured here.
ONE_HEAP = {
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "ARROW_IO_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
    "OMP_NUM_THREADS": "1",
}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
@pytest.mark.parametrize("kind", ["jsonl", "json"])
def test_memory_does_not_grow_with_the_rows(tmp_path: Path, kind: str) -> None:
    """Tenfold rows of 2 kB: 36 MB more of file, far less more of memory."""
    peaks = []
    for count in (2000, 20_000):
        path = tmp_path / f"{count}.{kind}"
        rows = [orjson.dumps(pair(i, text=f"{i} " * 300)) for i in range(count)]
        text = b"\n".join(rows) if kind == "jsonl" else b"[" + b",\n".join(rows) + b"]"
        path.write_bytes(text)
        done = subprocess.run(
            [sys.executable, "-c", PEAK, str(path), str(tmp_path / f"s{count}")],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, **ONE_HEAP},
        )
        accepted, peak = done.stdout.split()
        assert int(accepted) == count
        peaks.append(int(peak))
    assert path.stat().st_size > 30 << 20
    # 32 bytes a row are 0.6 MB; the allocators' own growth is given 8
    assert peaks[1] - peaks[0] < 18_000 * 32 + (8 << 20)


# -- Hugging Face datasets -----------------------------------------------------------------------


def test_a_dataset_folder_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "chats"
    folder.mkdir()
    turns = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]},
    ]
    rows = [
        {"messages": turns, "n": 1},
        {"messages": turns[:1], "n": 2},
        {"messages": turns, "n": 3},
    ]
    lines(folder / "train.jsonl", rows)
    made = take(tmp_path / "s", Source(hf=f"{folder}"))
    table = samples(made)
    assert decode_messages(table.column("messages")) == [turns, turns]
    assert table.column("n").to_pylist() == [1, 3]
    origins = table.column("origin").to_pylist()
    assert [o.split(":")[1] for o in origins] == ["0", "2"] and origins[0].startswith("chats@")
    assert rejected(made) == [(origins[0].split(":")[0], 2, "no_assistant")]
    assert take(tmp_path / "s", Source(hf=str(folder))) == made
    monkeypatch.setattr(ingest, "SHARD_ROWS", 1)
    assert samples(take(tmp_path / "t", Source(hf=str(folder)))).equals(table)


def test_a_hub_dataset_is_asked_for_by_its_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    class Found:
        sha = "0123456789abcdef" * 2

    asked: list[Any] = []

    def info(self: Any, name: str, revision: str | None = None) -> Found:
        asked.append((name, revision))
        return Found()

    class Rows(list):  # type: ignore[type-arg]
        def skip(self, count: int) -> list[Any]:
            return self[count:]

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", info)
    monkeypatch.setattr(
        hub, "load", lambda found: Rows(pair(i, rev=found.revision) for i in range(3))
    )
    made = take(tmp_path / "s", Source(hf="someone/things@v2", limit=2))
    assert asked == [("someone/things", "v2")]
    assert made.seal["inputs"]["input"] == {
        "dataset": "someone/things@0123456789ab",
        "revision": Found.sha,
        "split": "train",
    }
    assert samples(made).column("rev").to_pylist() == [Found.sha] * 2


def test_offline_a_hub_name_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(
        TamisError, match=r"hf:someone/things cannot be read: .*local files"
    ) as error:
        take(tmp_path / "s", Source(hf="someone/things"))
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="is no dataset name"):
        take(tmp_path / "s", Source(hf="not a name/at/all"))


# -- real data -----------------------------------------------------------------------------------


def test_the_whole_real_pool(tmp_path: Path, real_data: Path) -> None:
    path = real_data / "t0_pool.parquet"
    made = take(tmp_path / "s", str(path))
    raw, table = pq.read_table(path), samples(made)
    assert made.facts["rejected"] == {} and table.num_rows == raw.num_rows
    assert table.column("orig_id").to_pylist() == raw.column("id").to_pylist()
    assert table.column("family").to_pylist() == raw.column("family").to_pylist()
    wanted = [
        [{"role": "user", "content": q}, {"role": "assistant", "content": a}]
        for q, a in zip(
            raw.column("instruction").to_pylist(), raw.column("output").to_pylist(), strict=True
        )
    ]
    assert decode_messages(table.column("messages")) == wanted
    distinct = len({(q["content"], a["content"]) for q, a in wanted})
    assert made.facts["duplicates"] == raw.num_rows - distinct
