"""Reading files: every row with its place, bad rows named, bad files refused, and reading on."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.errors import DataError, TamisError
from tamis.storage import ids, json_array, readers
from tamis.storage.inputs import InputFile, expand, input_file, open_text, sha256_and_bytes


def file(path: Path | str) -> InputFile:
    found = input_file(str(path))
    assert found is not None
    return found


def rows(path: Path | str, start: readers.Mark = readers.START) -> list[tuple[int, Any]]:
    """Number and value, or number and reason, of each row."""
    result: list[tuple[int, Any]] = []
    for number, _, _, raw in readers.read(file(path), start):
        if isinstance(raw, bytes):
            try:
                result.append((number, readers.parse(raw)))
            except readers.Malformed as error:
                result.append((number, str(error)))
        else:
            result.append((number, raw.reason if isinstance(raw, readers.Bad) else raw))
    return result


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


# -- which files ---------------------------------------------------------------------------------


def test_expand_takes_files_folders_globs_in_order_and_each_once(tmp_path: Path) -> None:
    deep = tmp_path / "b" / "deep"
    deep.mkdir(parents=True)
    for name in ("z.jsonl", "b/two.csv", "b/deep/one.parquet", "b/a.json.gz", "b/notes.txt"):
        write(tmp_path / name, b"x")
    names = [f.url for f in expand([str(tmp_path / "z.jsonl"), str(tmp_path)])]
    below = ["b/a.json.gz", "b/two.csv", "b/deep/one.parquet"]
    assert names[0] == str(tmp_path / "z.jsonl")
    assert sorted(names) == sorted(str(tmp_path / name) for name in ["z.jsonl", *below])
    found = expand([str(tmp_path / "**" / "*.csv")])
    assert [f.name for f in found] == ["two.csv"]


def test_expand_sorts_a_folder(tmp_path: Path) -> None:
    (tmp_path / ".cache").mkdir()
    for name in ("c.jsonl", "a.jsonl", "b.jsonl", ".hidden.jsonl", ".cache/d.jsonl"):
        write(tmp_path / name, b"x")
    assert [f.name for f in expand([str(tmp_path)])] == ["a.jsonl", "b.jsonl", "c.jsonl"]


def test_a_file_whose_name_looks_like_a_glob_is_a_file(tmp_path: Path) -> None:
    write(tmp_path / "a[1].jsonl", b"{}")
    assert [f.name for f in expand([str(tmp_path / "a[1].jsonl")])] == ["a[1].jsonl"]


@pytest.mark.parametrize(
    ("name", "kind", "compression"),
    [
        ("a.json", "json", None),
        ("a.JSONL", "jsonl", None),
        ("a.ndjson.gz", "jsonl", "gzip"),
        ("a.csv.zst", "csv", "zstd"),
        ("a.parquet", "parquet", None),
    ],
)
def test_suffixes(name: str, kind: str, compression: str | None) -> None:
    assert input_file(name) == InputFile(name, kind, compression)


@pytest.mark.parametrize("name", ["a.txt", "a", "a.gz", "a.parquet.gz", "a.tar.gz"])
def test_unknown_suffix_given_by_name_is_refused(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, b"{}")
    with pytest.raises(DataError, match="suffix that is not known"):
        expand([str(tmp_path / name)])


def test_what_matches_nothing_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", b"x")
    with pytest.raises(DataError, match=r"missing\.jsonl matches no file"):
        expand([str(tmp_path / "missing.jsonl")])
    with pytest.raises(DataError, match="matches no file"):
        expand([str(tmp_path / "*.jsonl")])
    with pytest.raises(DataError, match="none of a known kind"):
        expand([str(tmp_path)])
    with pytest.raises(DataError, match="matches no file"):
        expand(["memory://nowhere/x.jsonl"])
    with pytest.raises(DataError, match="no input path"):
        expand([])


def test_fsspec_urls_as_file_folder_and_glob() -> None:
    memory = fsspec.filesystem("memory")
    for name in ("b.jsonl", "a.jsonl"):
        with memory.open(f"/urls/{name}", "wb") as out:
            out.write(b'{"a": 1}\n{"a": 2}\n')
    for path in ("memory://urls", "memory://urls/*.jsonl"):
        assert [f.name for f in expand([path])] == ["a.jsonl", "b.jsonl"]
    (one,) = expand(["memory://urls/a.jsonl"])
    assert rows(one.url) == [(1, {"a": 1}), (2, {"a": 2})]
    second = next(iter(readers.read(one)))[1]
    assert rows(one.url, second) == [(2, {"a": 2})]
    assert sha256_and_bytes(one)[1] == 18


# -- JSON lines ----------------------------------------------------------------------------------


def test_lines_with_everything_real_files_hold(tmp_path: Path) -> None:
    long = "x" * (8 << 20)
    content = (
        b'\xef\xbb\xbf{"a": 1}\r\n'
        b"\n   \r\n"
        b'{"a": "tab\tinside and \x01"}\n'
        b'{"a": "\\u0000 \\u2028"}\n'
        b'{"a": 2\n'
        b'{"a": "\xff"}\n'
        b'{"a": NaN}\n'
        b'{"a": "\\ud800"}\n'
        b'{"a": "\x02 \\ud800"}\n'
        b'{"a": [Infinity, "\x02"]}\n'
        b"[1]\n" + orjson.dumps({"a": long}) + b"\n"
        b'{"a": "last line without an end"}'
    )
    assert rows(write(tmp_path / "a.jsonl", content)) == [
        (1, {"a": 1}),
        (4, {"a": "tab\tinside and \x01"}),
        (5, {"a": "\x00 \u2028"}),
        (6, "invalid_json"),
        (7, "invalid_utf8"),
        (8, "invalid_json"),
        (9, "invalid_json"),
        (10, "invalid_json"),
        (11, "invalid_json"),
        (12, [1]),
        (13, {"a": long}),
        (14, {"a": "last line without an end"}),
    ]


def test_too_deep_a_line_is_a_bad_row(tmp_path: Path) -> None:
    deep = b"[" * 100_000 + b'"\x01"' + b"]" * 100_000
    assert rows(write(tmp_path / "a.jsonl", deep + b"\n{}\n")) == [(1, "invalid_json"), (2, {})]


def test_a_line_beyond_the_limit_is_a_bad_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "LIMIT_BYTES", 64)
    content = b'{"a": "' + b"x" * 300 + b'"}\n{"b": 1}\n'
    path = write(tmp_path / "a.jsonl", content)
    assert rows(path) == [(1, "row_too_long"), (2, {"b": 1})]
    (first, *_) = readers.read(file(path))
    assert rows(path, first[1]) == [(2, {"b": 1})]


def packed(content: bytes, suffix: str) -> bytes:
    if suffix == ".gz":
        return gzip.compress(content)
    if suffix == ".zst":
        half = len(content) // 2  # two frames, as parallel writers make them
        pack = zstandard.ZstdCompressor().compress
        return pack(content[:half]) + pack(content[half:])
    return content


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
@pytest.mark.parametrize("kind", ["jsonl", "json", "csv"])
def test_reading_on_after_any_row_gives_the_rest(tmp_path: Path, suffix: str, kind: str) -> None:
    values = [{"a": f'row {i} \u00e4 {{[,"]}}', "b": "x" * i} for i in range(1, 12)]
    lines = [orjson.dumps(value) for value in values]
    text = {
        "jsonl": b"\n\n".join(lines),
        "json": b"\xef\xbb\xbf [\n" + b" ,\n".join(lines) + b"\n]\n\n",
        "csv": b"\xef\xbb\xbfa,b\r\n"
        + b"\r\n".join(
            b'"%s",%s' % (v["a"].replace('"', '""').encode(), b'"x\nx"' * (len(v["b"]) % 2) or b"y")
            for v in values
        ),
    }[kind]
    path = write(tmp_path / f"a.{kind}{suffix}", packed(text, suffix))
    whole = rows(path)
    assert len(whole) == len(values)
    marks = [mark for _, mark, _, _ in readers.read(file(path))]
    for count, mark in enumerate(marks, start=1):
        assert rows(path, mark) == whole[count:]


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("kind", ["jsonl", "json"])
def test_a_truncated_compressed_file_is_refused(tmp_path: Path, suffix: str, kind: str) -> None:
    rng = np.random.default_rng(0)
    lines = [orjson.dumps({"a": rng.bytes(30).hex()}) for _ in range(3000)]
    text = b"\n".join(lines) if kind == "jsonl" else b"[" + b",".join(lines) + b"]"
    whole = gzip.compress(text) if suffix == ".gz" else zstandard.ZstdCompressor().compress(text)
    for cut in (len(whole) // 2, len(whole) - 3):
        path = write(tmp_path / f"a.{kind}{suffix}", whole[:cut])
        with pytest.raises(DataError, match=rf"a\.{kind}{suffix} is truncated or damaged"):
            rows(path)


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_garbage_under_a_compressed_name_is_refused(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"a.jsonl{suffix}", b'{"a": 1}\n' * 100)
    with pytest.raises(DataError, match="truncated or damaged"):
        rows(path)


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv"])
def test_files_without_rows_are_refused(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / f"a.{kind}", b" \n\n" if kind != "csv" else b"a,b\n")
    with pytest.raises(DataError, match="holds no rows"):
        rows(path)
    with pytest.raises(DataError, match="is empty"):
        sha256_and_bytes(file(write(tmp_path / f"e.{kind}", b"")))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.jsonl cannot be opened"):
        rows(tmp_path / "gone.jsonl")


# -- JSON arrays ---------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text('ab"\\{}[],: \n\u20ac', max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text('k"]}', max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(
    values=st.lists(json_values, min_size=1, max_size=8),
    indent=st.sampled_from([None, 1]),
    block=st.integers(1, 9),
)
@settings(max_examples=150, deadline=None)
def test_array_elements_whatever_the_blocks(
    tmp_path_factory: pytest.TempPathFactory, values: list[Any], indent: int | None, block: int
) -> None:
    path = tmp_path_factory.mktemp("array") / "a.json"
    path.write_text(json.dumps(values, indent=indent), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_array, "BLOCK_BYTES", block)
        assert rows(path) == list(enumerate(values, start=1))


def test_a_bad_element_is_a_bad_row(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", b'[{"a": 1} x, {"a": nope}, 7, "s,]", , {"b": "\x01"}}, {},]')
    assert rows(path) == [
        (1, "invalid_json"),
        (2, "invalid_json"),
        (3, 7),
        (4, "s,]"),
        (5, "invalid_json"),
        (6, "invalid_json"),
        (7, {}),
    ]


@pytest.mark.parametrize(
    "content",
    [b'[{"a": 1}', b'[{"a": 1}, ', b'[{"a": "x]', b"[", b'[{"a": [}]', b'[{"a": "\\"]'],
)
def test_an_unterminated_array_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(DataError, match=r"a\.json: the JSON array is not terminated"):
        rows(write(tmp_path / "a.json", content))


def test_text_after_an_array_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="text follows the end"):
        rows(write(tmp_path / "a.json", b'[{"a": 1}]\n[{"a": 2}]'))


def test_an_endless_element_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "LIMIT_BYTES", 100)
    monkeypatch.setattr(json_array, "BLOCK_BYTES", 16)
    with pytest.raises(DataError, match="longer than 100 bytes"):
        rows(write(tmp_path / "a.json", b'[{"a": "' + b"x" * 1000 + b'"}]'))


def test_json_lines_in_a_json_file_and_one_object_over_lines(tmp_path: Path) -> None:
    assert rows(write(tmp_path / "a.json", b'{"a": 1}\n{"a": 2}\n')) == [
        (1, {"a": 1}),
        (2, {"a": 2}),
    ]
    with pytest.raises(DataError, match="one JSON object over several lines"):
        rows(write(tmp_path / "b.json", b'{\n  "data": []\n}\n'))


# -- CSV -----------------------------------------------------------------------------------------


def test_csv_rows_keep_their_lines(tmp_path: Path) -> None:
    content = (
        b"instruction,output,score\r\n"
        b'"two\r\nlines","say ""hi""",1\r\n'
        b"\r\n"
        b"plain,,2\r\n"
        b"too,many,cells,here\r\n"
        b'bad"quote "x"y,"a"b,3\r\n'
        b"\xff,x,4\r\n"
        b"last,one,5"
    )
    assert rows(write(tmp_path / "a.csv", content)) == [
        (2, {"instruction": "two\r\nlines", "output": 'say "hi"', "score": "1"}),
        (5, {"instruction": "plain", "output": None, "score": "2"}),
        (6, "wrong_field_count"),
        (7, "invalid_csv"),
        (8, "invalid_utf8"),
        (9, {"instruction": "last", "output": "one", "score": "5"}),
    ]


def test_csv_with_a_long_cell(tmp_path: Path) -> None:
    long = "y" * (1 << 20)
    assert rows(write(tmp_path / "a.csv", f"a,b\n1,{long}\n".encode())) == [
        (2, {"a": "1", "b": long})
    ]


def test_csv_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="line 3 is not closed"):
        rows(write(tmp_path / "a.csv", b'a,b\n1,2\n3,"never closed\n4,5\n'))
    with pytest.raises(DataError, match="names a column twice"):
        rows(write(tmp_path / "b.csv", b"a,a\n1,2\n"))
    with pytest.raises(DataError, match="header is not readable"):
        rows(write(tmp_path / "c.csv", b"a,\xff\n1,2\n"))


# -- Parquet -------------------------------------------------------------------------------------


def test_parquet_of_all_types_row_by_row_and_from_any_row(tmp_path: Path) -> None:
    table = pa.table(
        {
            "text": pa.array([None, "b", "c", "d", "e", "f", "g"], pa.large_string()),
            "kind": pa.array(["x", "y", None, "x", "x", "y", "x"]).dictionary_encode(),
            "messages": pa.array(
                [[{"role": "user", "content": str(i), "n": None}] for i in range(7)]
            ),
        }
    )
    path = tmp_path / "a.parquet"
    pq.write_table(table, path, row_group_size=3)
    whole = rows(path)
    assert whole == list(enumerate(table.to_pylist(), start=1))
    for row in range(1, 8):
        assert rows(path, (row, row)) == whole[row:]
    assert readers.parquet_rows(file(path)) == 7


def test_parquet_with_text_that_is_no_utf8(tmp_path: Path) -> None:
    bad = pa.array([b"ok", b"\xff", b"fine"], pa.binary()).cast(pa.string(), safe=False)
    pq.write_table(pa.table({"a": bad}), tmp_path / "a.parquet")
    assert rows(tmp_path / "a.parquet") == [
        (1, {"a": "ok"}),
        (2, "invalid_utf8"),
        (3, {"a": "fine"}),
    ]


def test_truncated_parquet_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"a": np.arange(50_000)}), path, row_group_size=5000)
    content = path.read_bytes()
    for broken in (content[: len(content) // 2], b"PAR1", content[:4000] + content[6000:]):
        path.write_bytes(broken)
        with pytest.raises(DataError, match=r"a\.parquet is not a whole Parquet file"):
            rows(path)
    path.write_bytes(content[:100])
    with pytest.raises(DataError, match="not a whole Parquet file"):
        readers.parquet_rows(file(path))


def test_a_failing_disk_is_no_bad_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What may work the next time must not be told as bad data, which removes finished shards."""
    path = write(tmp_path / "a.jsonl", b"{}\n")
    with pytest.raises(TamisError, match="cannot be read") as caught, open_text(file(path)):
        raise OSError(5, "Input/output error")
    assert not isinstance(caught.value, DataError)


# -- occurrence numbers --------------------------------------------------------------------------


@given(
    keys=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60),
    block=st.integers(1, 20),
    cut=st.integers(1, 60),
)
@settings(max_examples=200, deadline=None)
def test_occurrences_count_equal_keys_before(
    keys: list[tuple[int, int]], block: int, cut: int
) -> None:
    """Against a plain count; keys that share one half only are different keys."""
    words = np.array(keys, dtype=np.uint64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ids, "_BLOCK", block)
        found = ids.occurrences(iter([words[:cut], words[cut:]]), len(keys))
    assert found.tolist() == [keys[:i].count(key) for i, key in enumerate(keys)]


def test_key_words_keep_all_bits() -> None:
    keys = pa.chunked_array([["00" * 8 + "ff" * 8, "0123456789abcdef" * 2], ["f" + "0" * 31]])
    assert ids.key_words(keys).tolist() == [
        [0, 2**64 - 1],
        [0x0123456789ABCDEF, 0x0123456789ABCDEF],
        [15 << 60, 0],
    ]
