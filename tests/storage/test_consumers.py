"""What other trainers read: checked against the fields and values that they document."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from tamis.samples import MESSAGES, encode_message
from tamis.storage import manifests
from tamis.storage.manifest_consumers import losses, told

ABOUT = {"selection": {}, "seed": 0, "heldout": {}, "method": None, "trainer": {}}
CALL = [{"type": "function", "function": {"name": "f", "arguments": "{}"}}]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Columns(Strict):
    """LLaMA-Factory: names of columns; only those of supervised data."""

    prompt: str = "instruction"
    query: str = "input"
    response: str = "output"
    history: str | None = None
    messages: str = "conversations"
    system: str | None = None
    tools: str | None = None


class Tags(Strict):
    """LLaMA-Factory: names of keys and of roles in a message."""

    role_tag: str = "from"
    content_tag: str = "value"
    user_tag: str = "human"
    assistant_tag: str = "gpt"
    observation_tag: str = "observation"
    function_tag: str = "function_call"
    system_tag: str = "system"


class Entry(Strict):
    """LLaMA-Factory: an entry of dataset_info.json that names a local file."""

    file_name: str = Field(pattern=r"\.(json|jsonl|csv|parquet|arrow)$")
    formatting: Literal["alpaca", "sharegpt"] = "alpaca"
    ranking: Literal[False] = False
    subset: str | None = None
    split: str = "train"
    folder: str | None = None
    num_samples: int | None = None
    columns: Columns = Columns()
    tags: Tags | None = None


class AxolotlData(Strict):
    """axolotl: an entry of `datasets` of type chat_template."""

    path: str
    ds_type: Literal["json", "arrow", "text", "parquet"]
    data_files: list[str]
    type: Literal["chat_template"]
    field_messages: str = "messages"
    message_property_mappings: dict[Literal["role", "content"], str]
    roles_to_train: list[str] = ["assistant"]
    train_on_eos: Literal["turn", "last", "all"] = "turn"
    message_field_training: str | None = None


class Axolotl(Strict):
    datasets: list[AxolotlData]
    chat_template: Literal["tokenizer_default", "tokenizer_default_fallback_chatml"]


def rows(
    conversations: list[list[dict[str, Any]]],
    tools: list[Any] | None = None,
    weights: list[float | None] | None = None,
) -> pa.Table:
    n = len(conversations)
    offered = [None if t is None else orjson.dumps(t).decode() for t in tools or [None] * n]
    return pa.table(
        {
            "row_id": [f"r{i}" for i in range(n)],
            "messages": pa.array([[encode_message(m) for m in c] for c in conversations], MESSAGES),
            "tools": pa.array(offered, pa.string()),
            "weight": pa.array(weights or [None] * n, pa.float64()),
            "source": ["web"] * n,
            "ability": pa.nulls(n, pa.string()),
            "score": pa.nulls(n, pa.float32()),
        }
    )


def say(*turns: str, system: str | None = None) -> list[dict[str, Any]]:
    roles = ("user", "assistant")
    first = [{"role": "system", "content": system}] if system else []
    return first + [{"role": roles[i % 2], "content": text} for i, text in enumerate(turns)]


PLAIN = [say("a", "b"), say("c", "d", system="s"), say("e", "f")]
SEVERAL = [*PLAIN, say("a", "b", "c", "d")]
MARKED = [*PLAIN, [{**m, "train": i == 3} for i, m in enumerate(say("a", "b", "c", "d"))]]


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def make(conversations: list[list[dict[str, Any]]], shard_rows: int) -> Path:
        manifests.write(
            tmp_path / "m",
            rows(conversations),
            None,
            name="set",
            about=ABOUT,
            licences=[],
            shard_rows=shard_rows,
        )
        return tmp_path / "m"

    return make


@pytest.mark.parametrize("shard_rows", [2, 100])
@pytest.mark.parametrize("conversations", [PLAIN, SEVERAL, MARKED])
def test_what_is_written_is_what_they_document(
    write: Any, conversations: list[list[dict[str, Any]]], shard_rows: int
) -> None:
    folder = write(conversations, shard_rows)
    info = json.loads((folder / "dataset_info.json").read_text())
    entries = TypeAdapter(dict[str, Entry]).validate_python(info)
    files = sorted(p.relative_to(folder).as_posix() for p in folder.glob("data/train-*"))
    assert sorted({entry.file_name for entry in entries.values()}) == files
    for entry in entries.values():
        table = pq.read_table(folder / entry.file_name)
        if entry.formatting == "alpaca":
            check_alpaca(entry, table)
        else:
            check_messages(entry, table)
    alpaca = [name for name, entry in entries.items() if entry.formatting == "alpaca"]
    assert bool(alpaca) == (conversations is PLAIN)  # no row of them may be lost

    config = Axolotl.model_validate(yaml.safe_load((folder / "axolotl.yaml").read_text()))
    (data,) = config.datasets
    assert data.data_files == files and data.ds_type == "parquet"
    fields = pq.read_table(folder / files[0]).schema.field(data.field_messages).type.value_type
    names = {fields.field(i).name for i in range(fields.num_fields)}
    assert set(data.message_property_mappings.values()) <= names
    assert (data.message_field_training == "train") == (conversations is MARKED)
    assert data.message_field_training is None or data.message_field_training in names


def check_messages(entry: Entry, table: pa.Table) -> None:
    """Roles by their tags; questions at odd, answers at even places, behind a system prompt."""
    assert entry.tags is not None
    tags = entry.tags
    for row in table[entry.columns.messages].to_pylist():
        said = [(m[tags.role_tag], m[tags.content_tag]) for m in row]
        if said[0][0] == tags.system_tag:
            said = said[1:]
        assert len(said) % 2 == 0
        for i, (role, text) in enumerate(said):
            assert role == (tags.user_tag, tags.assistant_tag)[i % 2]
            assert text


def check_alpaca(entry: Entry, table: pa.Table) -> None:
    """One question and one answer, in the columns that the entry names."""
    columns = entry.columns
    assert columns.history is None and entry.tags is None
    for name in (columns.prompt, columns.response):
        assert all(table[name].to_pylist())
    for name in (columns.query, columns.system):
        assert name is not None and table.schema.field(name).type == pa.string()
    for row in table.to_pylist():
        texts = {m["role"]: m["content"] for m in row["messages"]}
        assert texts["user"] == row[columns.prompt] and row[columns.query] == ""
        assert texts["assistant"] == row[columns.response]
        assert texts.get("system", "") == row[columns.system]


def test_the_schemas_refuse_what_is_not_documented() -> None:
    for wrong in (
        {"file_name": "a.parquet", "format": "sharegpt"},
        {"file_name": "a.parquet", "formatting": "openai"},
        {"file_name": "a.txt"},
        {"file_name": "a.parquet", "tags": {"role": "role"}},
    ):
        with pytest.raises(ValidationError):
            Entry.model_validate(wrong)


def test_rows_that_a_trainer_cannot_take_are_counted() -> None:
    table = rows(
        [
            say("a", "b"),
            say("a", "b", "c"),
            [*say("a", "b"), {"role": "assistant", "content": "c"}],
            [{"role": "tool", "content": "x"}, {"role": "assistant", "content": "y"}],
            [*say("a"), {"role": "assistant", "content": None, "tool_calls": CALL}],
            say("a", "b"),
            MARKED[-1],
            say("a", "b"),
        ],
        tools=[None] * 5 + [[{"type": "function"}]] + [None] * 2,
        weights=[1.0, None, None, None, None, None, None, 0.5],
    )
    found = losses(table)
    assert found == {
        "trl": {"train_marks": 1, "weights": 1},
        "LLaMA-Factory": {
            "no_last_answer": 1,
            "roles": 2,
            "tools": 2,
            "train_marks": 1,
            "weights": 1,
        },
        "LLaMA-Factory, alpaca": {"several_turns": 3, "tools": 2, "train_marks": 1, "weights": 1},
        "axolotl": {"weights": 1},
    }
    assert told(found)[3] == "axolotl: 1 rows where weights do not count"
    assert told(losses(rows(PLAIN))) == []


def test_the_manifest_and_its_card_say_so(write: Any) -> None:
    folder = write(SEVERAL, 100)
    info = json.loads((folder / "manifest.json").read_text())
    assert info["other_trainers"]["LLaMA-Factory, alpaca"] == {"several_turns": 1}
    assert "1 rows where more than one question and answer" in (folder / "README.md").read_text()
