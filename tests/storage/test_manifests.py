"""The manifest: what goes in comes out, for us, for datasets and for DuckDB."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tamis.errors import DataError
from tamis.samples import MESSAGES, decode_messages, decode_tools, encode_message
from tamis.storage import manifests
from tamis.storage.manifest_rows import content_hash, from_table, to_table
from tamis.storage.publish import publish

ABOUT = {
    "base_model": None,
    "tokenizer": None,
    "selection": {"method": "top", "params": {"by": "length.answer"}, "budget": {"rows": 3}},
    "method": None,
    "trainer": {},
    "seed": 7,
    "heldout": {},
}
FORBIDDEN = {"text", "prompt", "completion", "conversations", "chosen", "rejected"}
CALLS = [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}]


def rows(
    conversations: list[list[dict[str, Any]]],
    *,
    weights: list[float | None] | None = None,
    tools: list[Any] | None = None,
    prefix: str = "r",
) -> pa.Table:
    n = len(conversations)
    return pa.table(
        {
            "row_id": [f"{prefix}{i}" for i in range(n)],
            "messages": pa.array([[encode_message(m) for m in c] for c in conversations], MESSAGES),
            "tools": pa.array(
                [None if t is None else orjson.dumps(t).decode() for t in tools or [None] * n],
                pa.string(),
            ),
            "weight": pa.array(weights or [None] * n, pa.float64()),
            "source": ["web"] * n,
            "ability": pa.array(["maths", *[None] * (n - 1)], pa.string()),
            "score": pa.array([float(i) for i in range(n)]),
        }
    )


def talk(question: str, answer: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def write(folder: Path, train: pa.Table, heldout: pa.Table | None = None, **given: Any) -> Any:
    settings = {
        "name": "set",
        "about": ABOUT,
        "licences": ["Apache-2.0"],
        "shard_rows": 50,
        **given,
    }
    return manifests.write(folder, train, heldout, **settings)


def load(folder: Path, cache: Path) -> Any:
    """The manifest as any user of `datasets` reads it."""
    import datasets

    files = {"train": str(folder / "data/train-*.parquet")}
    if list((folder / "data").glob("heldout-*")):
        files["heldout"] = str(folder / "data/heldout-*.parquet")
    return datasets.load_dataset("parquet", data_files=files, cache_dir=str(cache))


def present(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in m.items() if v is not None or k == "content"} for m in messages]


def test_plain_rows(tmp_path: Path) -> None:
    conversations = [talk("q", "a"), [{"role": "system", "content": "s"}, *talk("q2", "a2")]]
    conversations.append([*talk("q", "a"), *talk("more?", "b")])
    train = rows(conversations, weights=[1.0, 0.5, 2.25])
    written = write(tmp_path / "m", train, rows([talk("h", "k")], prefix="h"))
    found = load(tmp_path / "m", tmp_path / "cache")
    assert found["train"]["messages"][:] == conversations
    assert found["heldout"]["messages"][0] == talk("h", "k")
    assert set(found["train"].column_names).isdisjoint(FORBIDDEN)
    assert str(found["train"].features["messages"]) == (
        "List({'role': Value('string'), 'content': Value('string')})"
    )
    assert found["train"]["weight"][:] == [1.0, 0.5, 2.25]
    assert found["train"]["instruction"][:] == ["q", "q2", ""]
    assert found["train"]["output"][:] == ["a", "a2", ""]
    assert found["train"]["system"][:] == ["", "s", ""]
    assert found["train"]["input"][:] == ["", "", ""]
    info = json.loads((tmp_path / "m" / "manifest.json").read_text())
    assert info == written.info
    assert info["weights_mode"] == "token_mean" and info["weight_column"] == "weight"
    assert info["heldout_content_hash"] == content_hash(rows([talk("h", "k")], prefix="h"))
    plain = write(tmp_path / "plain", rows(conversations))
    assert (plain.info["weights_mode"], plain.info["weight_column"]) == ("none", None)
    assert plain.info["heldout_content_hash"] is None
    assert [(f["path"], f["split"], f["n_rows"]) for f in info["files"]] == [
        ("data/train-00000.parquet", "train", 3),
        ("data/heldout-00000.parquet", "heldout", 1),
    ]


def test_tool_calls_come_back_as_they_went_in(tmp_path: Path) -> None:
    import duckdb

    conversation = [
        {"role": "system", "content": "s", "train": False},
        {"role": "user", "content": "q", "name": "ann"},
        {"role": "assistant", "content": None, "tool_calls": CALLS},
        {"role": "tool", "content": '{"sum": 3}', "tool_call_id": "c1", "name": "f"},
        {"role": "assistant", "content": "3", "train": False, "reasoning_content": "1 + 2"},
        {"role": "assistant", "content": "end", "parts": [{"a": [1, None]}], "depth": 2.5},
    ]
    other = [talk("q", "a")[0], {**talk("q", "a")[1], "tool_calls": [{"arguments": {"b": [1]}}]}]
    tools = [[{"type": "function", "function": {"name": "f", "parameters": {}}}], None]
    write(tmp_path / "m", rows([conversation, other], tools=tools))
    found = load(tmp_path / "m", tmp_path / "cache")["train"]
    assert [present(m) for m in found["messages"]] == [conversation, other]
    assert found["tools"][:] == tools

    ours = manifests.read(tmp_path / "m").rows()
    assert decode_messages(ours["messages"]) == [conversation, other]
    assert decode_tools(ours["tools"]) == tools

    path = tmp_path / "m" / "data" / "train-00000.parquet"
    query = f"select messages[3].tool_calls -> '$[0].function' ->> 'name' from '{path}' limit 1"
    assert duckdb.sql(query).fetchall() == [("f",)]


@pytest.mark.parametrize("keys", [("Name", "x"), ("a", "A"), ("a b",), ("extra",), ("k" * 80,)])
def test_odd_keys_stay_readable_in_sql(tmp_path: Path, keys: tuple[str, ...]) -> None:
    import duckdb

    messages = [talk("q", "a")[0] | {"name": "ann"}, talk("q", "a")[1] | dict.fromkeys(keys, 1)]
    pq.write_table(to_table(rows([messages])), tmp_path / "x.parquet")
    query = f"select messages[1].name, messages[2].extra from '{tmp_path}/x.parquet'"
    name, more = duckdb.sql(query).fetchall()[0]
    assert name == "ann" and json.loads(more) == dict.fromkeys(keys, 1)
    assert decode_messages(from_table(pq.read_table(tmp_path / "x.parquet"))["messages"]) == [
        messages
    ]


def test_many_keys_go_into_one_field() -> None:
    messages = [talk("q", "a")[0], talk("q", "a")[1] | {f"k{i}": i for i in range(40)}]
    table = to_table(rows([messages]))
    assert table.schema.field("messages").type.value_type.num_fields == 7
    assert decode_messages(from_table(table)["messages"]) == [messages]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)
names = st.sampled_from(["reasoning_content", "Extra", "extra", "a b", "weight", "_x", "Name", ""])
message = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["user", "assistant", "tool"]),
        "content": st.none() | st.text(max_size=8),
    },
    optional={
        "name": st.text(max_size=4),
        "tool_call_id": st.text(max_size=4),
        "train": st.booleans(),
        "tool_calls": st.lists(json_values, max_size=2),
    },
)
extended = st.builds(
    lambda m, more: {**m, **more},
    message,
    st.dictionaries(
        names | st.text(min_size=1, max_size=3),
        json_values.filter(lambda v: v is not None),
        max_size=2,
    ),
).filter(lambda m: not ({"role", "content"} - set(m)))
KNOWN = {"role", "content", "name", "tool_call_id", "train", "tool_calls"}


def sound(conversation: list[dict[str, Any]]) -> bool:
    """Whether known keys hold what they are for: further keys must not have their names."""
    kinds = {"name": str, "tool_call_id": str, "train": bool, "tool_calls": list, "role": str}
    return all(isinstance(m[k], t) for m in conversation for k, t in kinds.items() if k in m)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    conversations=st.lists(
        st.lists(extended, min_size=1, max_size=3).filter(sound), min_size=1, max_size=3
    ),
    tools=st.none()
    | st.lists(st.dictionaries(st.text(max_size=3), json_values, max_size=2), max_size=2),
)
def test_nothing_of_a_message_is_lost(
    conversations: list[list[dict[str, Any]]], tools: Any
) -> None:
    given_rows = rows(conversations, tools=[tools] + [None] * (len(conversations) - 1))
    sink = pa.BufferOutputStream()
    pq.write_table(to_table(given_rows), sink)
    stored = pq.read_table(pa.BufferReader(sink.getvalue()))
    back = from_table(stored)
    assert decode_messages(back["messages"]) == [present(c) for c in conversations]
    assert decode_tools(back["tools"])[0] == (tools or None)
    assert content_hash(back) == content_hash(given_rows)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(conversations=st.lists(st.lists(message, min_size=1, max_size=3), min_size=1, max_size=3))
def test_datasets_gives_back_what_went_in(
    tmp_path_factory: pytest.TempPathFactory, conversations: list[list[dict[str, Any]]]
) -> None:
    import datasets

    folder = tmp_path_factory.mktemp("m")
    ours = [*conversations[0], {"role": "assistant", "content": "a"}]
    pq.write_table(to_table(rows([ours, *conversations[1:]])), folder / "x.parquet")
    found = datasets.Dataset.from_parquet(str(folder / "x.parquet"), cache_dir=str(folder))
    assert [present(m) for m in found["messages"]] == [
        present(c) for c in [ours, *conversations[1:]]
    ]


def test_content_hash_is_of_the_content(tmp_path: Path) -> None:
    conversations = [talk(f"q{i}", f"a{i}") for i in range(7)]
    weights: list[float | None] = [1.0, None, 0.1, 2.0, 3.0, 0.0, 1.0]
    train = rows(conversations, weights=weights)
    one = write(tmp_path / "one", train)
    other = write(tmp_path / "other", train.take([3, 1, 0, 2, 6, 5, 4]), shard_rows=2, name="else")
    assert one.content_hash == other.content_hash
    assert len(other.info["files"]) == 4
    changed = [
        rows([*conversations[:-1], talk("q6", "b6")], weights=weights),
        rows(conversations, weights=[*weights[:-1], 1.001]),
        rows(conversations, weights=weights, prefix="s"),
        rows(conversations, weights=weights, tools=[[{"name": "f"}]] + [None] * 6),
    ]
    hashes = {one.content_hash, *(content_hash(t) for t in changed)}
    assert len(hashes) == 5
    nulls = rows([[{**m, "name": None} for m in c] for c in conversations], weights=weights)
    assert content_hash(nulls) == one.content_hash
    for found in (one, other):
        back = manifests.read(found.folder).rows()
        assert back.schema.field("messages").type == MESSAGES
        assert content_hash(back) == one.content_hash


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (rows([talk("q", "a"), talk("p", "b")], weights=[1.0, -0.5]), "row r1"),
        (rows([talk("q", "a")], weights=[math.nan]), "row r0"),
        (rows([talk("q", "a")], weights=[0.0]), "all rows together"),
        (rows([talk("q", "a"), talk("p", " ")]), "row r1 has no assistant answer"),
        (rows([[{"role": "user", "content": "q"}]]), "row r0 has no assistant answer"),
        (pa.concat_tables([rows([talk("q", "a")])] * 2), "1 row ids repeat"),
        (rows([talk("q", "a")]).slice(0, 0), "at least one row"),
    ],
)
def test_rows_that_cannot_be_trained_on_are_refused(
    tmp_path: Path, train: pa.Table, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        write(tmp_path / "m", train)
    assert not (tmp_path / "m").exists()


def test_held_out_rows_must_be_others(tmp_path: Path) -> None:
    train = rows([talk("q", "a")])
    with pytest.raises(DataError, match="training rows too"):
        write(tmp_path / "m", train, rows([talk("p", "b")]))
    with pytest.raises(DataError, match="content of a training row"):
        write(tmp_path / "m", train, rows([talk("q", "a")], prefix="h"))


def test_damage_is_seen_on_load(tmp_path: Path) -> None:
    def made(name: str) -> Path:
        write(tmp_path / name, rows([talk("q", "a")]), rows([talk("h", "k")], prefix="h"))
        return tmp_path / name

    assert manifests.read(made("good")).rows("heldout")["row_id"].to_pylist() == ["h0"]
    for name in ("train", "heldout"):
        folder = made(f"bytes-{name}")
        path = folder / "data" / f"{name}-00000.parquet"
        path.write_bytes(path.read_bytes()[:-1] + b"x")
        with pytest.raises(DataError, match="not what was exported"):
            manifests.read(folder)
    folder = made("missing")
    (folder / "data" / "train-00000.parquet").unlink()
    with pytest.raises(DataError, match="is missing"):
        manifests.read(folder)
    for key, value, message in (
        ("content_hash", "0" * 64, "the rows hash to"),
        ("schema_version", 99, "schema version 99"),
    ):
        folder = made(f"info-{key}")
        info = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps({**info, key: value}))
        with pytest.raises(DataError, match=message):
            manifests.read(folder)
    with pytest.raises(DataError, match="no training manifest"):
        manifests.read(tmp_path)


def test_configs_of_other_trainers(tmp_path: Path) -> None:
    import yaml
    from huggingface_hub import DatasetCard

    single = rows([talk(f"q{i}", "a") for i in range(5)])
    write(tmp_path / "m", single, rows([talk("h", "k")], prefix="h"), shard_rows=3)
    info = json.loads((tmp_path / "m" / "dataset_info.json").read_text())
    shards = ["data/train-00000.parquet", "data/train-00001.parquet"]
    assert [e["file_name"] for n, e in info.items() if "alpaca" not in n] == shards
    assert {n for n in info if "alpaca" in n} == {"set_alpaca_00000", "set_alpaca_00001"}
    config = yaml.safe_load((tmp_path / "m" / "axolotl.yaml").read_text())
    assert config["datasets"][0]["data_files"] == shards
    assert config["datasets"][0]["roles_to_train"] == ["assistant"]
    card = DatasetCard.load(tmp_path / "m" / "README.md")
    assert card.data.to_dict()["license"] == "apache-2.0"
    assert [f["split"] for f in card.data.to_dict()["configs"][0]["data_files"]] == [
        "train",
        "heldout",
    ]
    write(tmp_path / "multi", rows([[*talk("q", "a"), *talk("p", "b")]]), licences=["mit", "odd"])
    assert set(json.loads((tmp_path / "multi" / "dataset_info.json").read_text())) == {"set"}
    card = DatasetCard.load(tmp_path / "multi" / "README.md")
    assert card.data.to_dict()["license"] == "other"


def test_the_folder_loads_by_its_card(tmp_path: Path) -> None:
    import datasets

    write(tmp_path / "m", rows([talk("q", "a")]), rows([talk("h", "k")], prefix="h"))
    found = datasets.load_dataset(str(tmp_path / "m"), cache_dir=str(tmp_path / "cache"))
    assert {split: len(found[split]) for split in found} == {"train": 1, "heldout": 1}


@pytest.mark.parametrize("scheme", ["", "memory://"])
def test_publishing(tmp_path: Path, scheme: str) -> None:
    import fsspec

    target = f"{scheme}{tmp_path}/copy"
    one = write(tmp_path / "one", rows([talk(f"q{i}", "a") for i in range(4)]), shard_rows=2)
    two = write(tmp_path / "two", rows([talk("q", "a")]))
    assert publish(one, target) is True
    assert publish(one, target) is False
    assert publish(two, target) is True
    fs, root = fsspec.core.url_to_fs(target)
    there = {p[len(root) + 1 :] for p in fs.find(root)}
    assert there == {str(p.relative_to(two.folder)) for p in two.folder.rglob("*") if p.is_file()}
    for name in there:
        assert fs.cat_file(f"{root}/{name}") == (two.folder / name).read_bytes()


def test_publishing_keeps_off_other_folders(tmp_path: Path) -> None:
    one = write(tmp_path / "one", rows([talk("q", "a")]))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(DataError, match="holds no manifest"):
        publish(one, str(tmp_path / "mine"))
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.tex"]
