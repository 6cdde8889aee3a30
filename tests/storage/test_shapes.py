"""Shapes of rows: what each becomes, what is kept, and what is refused for which reason."""

from __future__ import annotations

import copy
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.storage.shapes import normalise
from tamis.storage.turns import ROLE_NAMES, Rejected

USER = {"role": "user", "content": "q"}
ANSWER = {"role": "assistant", "content": "a"}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"x": 1}}}


def reason(row: Any, **options: bool) -> str:
    with pytest.raises(Rejected) as caught:
        normalise(row, **options)
    return caught.value.reason


@pytest.mark.parametrize(
    ("row", "shape", "messages"),
    [
        ({"instruction": "q", "output": "a"}, "alpaca", [USER, ANSWER]),
        ({"instruction": "q", "input": " \n", "output": "a"}, "alpaca", [USER, ANSWER]),
        (
            {"instruction": "q", "input": "more", "output": "a"},
            "alpaca",
            [{"role": "user", "content": "q\n\nmore"}, ANSWER],
        ),
        (
            {"instruction": "q", "output": "a", "history": [["q0", "a0"], ["q1", "a1"]]},
            "alpaca",
            [
                {"role": "user", "content": "q0"},
                {"role": "assistant", "content": "a0"},
                {"role": "user", "content": "q1"},
                {"role": "assistant", "content": "a1"},
                USER,
                ANSWER,
            ],
        ),
        ({"instruction": "q", "output": "a", "history": '[["x", "y"]]'}, "alpaca", 4),
        (
            {"instruction": "q", "context": "c", "response": "a"},
            "dolly",
            [{"role": "user", "content": "q\n\nc"}, ANSWER],
        ),
        ({"instruction": "q", "response": "a"}, "dolly", [USER, ANSWER]),
        (
            {"instruction": "q", "input": "i", "response": "a"},
            "dolly",
            [{"role": "user", "content": "q\n\ni"}, ANSWER],
        ),
        (
            {"instruction": "q", "input": "i", "context": "c", "response": "a"},
            "dolly",
            [{"role": "user", "content": "q\n\nc"}, ANSWER],
        ),
        ({"prompt": "q", "completion": "a"}, "prompt_completion", [USER, ANSWER]),
        ({"prompt": "q", "response": "a"}, "prompt_completion", [USER, ANSWER]),
        ({"prompt": [USER], "completion": [ANSWER]}, "prompt_completion", [USER, ANSWER]),
        ({"prompt": [USER], "completion": "a"}, "prompt_completion", [USER, ANSWER]),
        ({"messages": [USER, ANSWER]}, "messages", [USER, ANSWER]),
        ({"conversations": [USER, ANSWER]}, "messages", [USER, ANSWER]),
        ({"messages": orjson.dumps([USER, ANSWER]).decode()}, "messages", [USER, ANSWER]),
        (
            {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
            "sharegpt",
            [USER, ANSWER],
        ),
        # in a table of mixed rows the keys of other shapes are there and null
        (
            {
                "messages": None,
                "instruction": None,
                "output": None,
                "prompt": "q",
                "completion": "a",
            },
            "prompt_completion",
            [USER, ANSWER],
        ),
        (
            {"chosen": None, "rejected": None, "output": None, "instruction": "q", "response": "a"},
            "dolly",
            [USER, ANSWER],
        ),
    ],
)
def test_each_shape(row: dict[str, Any], shape: str, messages: Any) -> None:
    found = normalise(row)
    assert found.shape == shape
    assert (len(found.messages) if isinstance(messages, int) else found.messages) == messages


@pytest.mark.parametrize(
    ("row", "code"),
    [
        (["not", "an", "object"], "not_an_object"),
        ("text", "not_an_object"),
        (None, "not_an_object"),
        ({}, "unknown_shape"),
        ({"text": "plain"}, "unknown_shape"),
        ({"instruction": "q"}, "unknown_shape"),
        ({"messages": None}, "unknown_shape"),
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, "preference_pair"),
        ({"chosen": [USER, ANSWER], "rejected": [USER, ANSWER]}, "preference_pair"),
        ({"messages": [USER, ANSWER], "chosen": "x", "rejected": "y"}, "preference_pair"),
        ({"instruction": "q", "output": ""}, "empty_answer"),
        ({"instruction": "q", "output": " \n\t\u3000"}, "empty_answer"),
        ({"instruction": "q", "output": None}, "empty_answer"),
        ({"prompt": "q", "completion": "  "}, "empty_answer"),
        ({"instruction": "q", "context": "c", "response": ""}, "empty_answer"),
        ({"messages": [USER, {"role": "assistant", "content": " "}]}, "empty_answer"),
        ({"messages": [USER, {"role": "assistant", "content": None}]}, "empty_answer"),
        ({"messages": [USER, {"role": "assistant"}]}, "empty_answer"),
        (
            {"messages": [USER, {"role": "assistant", "content": "", "tool_calls": []}]},
            "empty_answer",
        ),
        (
            {"messages": [USER, ANSWER, USER, {"role": "assistant", "content": ""}, USER]},
            "empty_answer",
        ),
        (
            {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": ""}]},
            "empty_answer",
        ),
        ({"messages": []}, "no_assistant"),
        ({"messages": [USER]}, "no_assistant"),
        ({"messages": [USER, {"role": "narrator", "content": "a"}]}, "bad_role"),
        ({"messages": [USER, {"role": 3, "content": "a"}]}, "bad_role"),
        ({"messages": [USER, {"content": "a"}]}, "bad_role"),
        ({"messages": [USER, "a"]}, "bad_messages"),
        ({"messages": {"role": "user"}}, "bad_messages"),
        ({"messages": "not json"}, "bad_messages"),
        ({"messages": [{"role": "user", "content": 3}, ANSWER]}, "bad_content"),
        ({"messages": [{"role": "user", "content": None}, ANSWER]}, "bad_content"),
        (
            {"messages": [USER, {"role": "assistant", "content": None}, USER, ANSWER]},
            "empty_answer",
        ),
        ({"messages": [USER, {"role": "assistant", "content": " "}, USER, ANSWER]}, "empty_answer"),
        ({"instruction": "q", "output": 3}, "bad_content"),
        ({"instruction": ["q"], "output": "a"}, "bad_content"),
        ({"instruction": "q", "input": {"k": 1}, "output": "a"}, "bad_content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}, ANSWER]},
            "non_text_content",
        ),
        ({"messages": [{"role": "user", "content": [3]}, ANSWER]}, "non_text_content"),
        ({"instruction": " ", "input": "", "output": "a"}, "empty_instruction"),
        ({"instruction": None, "output": "a"}, "empty_instruction"),
        ({"prompt": "", "completion": "a"}, "empty_instruction"),
        ({"instruction": "q", "output": "a", "history": [["only one"]]}, "bad_history"),
        ({"instruction": "q", "output": "a", "history": "q0"}, "bad_history"),
        ({"instruction": "q", "output": "a", "tools": "no json"}, "bad_tools"),
        ({"instruction": "q", "output": "a", "tools": [1]}, "bad_tools"),
        ({"messages": [USER, {**ANSWER, "tool_calls": "no json"}]}, "bad_tool_calls"),
        ({"messages": [USER, {**ANSWER, "tool_calls": [1]}]}, "bad_tool_calls"),
        ({"messages": [USER, {**ANSWER, "name": 3}]}, "bad_name"),
        ({"messages": [USER, {**ANSWER, "tool_call_id": 3}]}, "bad_tool_call_id"),
        ({"messages": [USER, {**ANSWER, "train": "yes"}]}, "bad_train"),
        ({"messages": [USER, {**ANSWER, "train": 0.0}]}, "bad_train"),
    ],
)
def test_each_reason(row: Any, code: str) -> None:
    assert reason(row) == code


def test_nothing_of_a_message_is_lost() -> None:
    turns = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "q", "name": "Ann", "mood": {"a": [1, None]}},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "", "tool_call_id": "c1", "name": "add"},
        {"role": "assistant", "content": "", "tool_calls": [CALL, CALL], "train": False},
        {"role": "tool", "content": "3", "tool_call_id": "c2"},
        {"role": "assistant", "content": "three", "train": True, "weight": 0, "extra": "e"},
    ]
    found = normalise({"messages": copy.deepcopy(turns), "tools": [{"name": "add"}], "n": 1})
    assert found.messages == turns
    assert found.tools == [{"name": "add"}]
    assert found.rest == {"n": 1}


def test_a_turn_without_content_beside_tool_calls_has_null_content() -> None:
    found = normalise({"messages": [USER, {"role": "assistant", "tool_calls": [CALL]}]})
    assert found.messages[1] == {"role": "assistant", "content": None, "tool_calls": [CALL]}


def test_keys_without_a_value_are_not_kept_and_flags_of_0_and_1_are_truth() -> None:
    found = normalise({"messages": [{**USER, "name": None}, {**ANSWER, "train": 0, "x": None}]})
    assert found.messages == [USER, {**ANSWER, "train": False}]
    assert found.messages[1]["train"] is False


@pytest.mark.parametrize("written", sorted(set(ROLE_NAMES) - {"function_call", "tool_call"}))
def test_other_names_of_roles(written: str) -> None:
    turns = [{"role": written.upper(), "content": "x"}, ANSWER]
    assert normalise({"messages": turns}).messages[0]["role"] == ROLE_NAMES[written]
    said = [{"from": written, "value": "x"}, {"from": "gpt", "value": "a"}]
    found = normalise({"conversations": said})
    assert found.shape == "sharegpt"
    assert found.messages == [{"role": ROLE_NAMES[written], "content": "x"}, ANSWER]


def test_sharegpt_calls_and_observations() -> None:
    said = [
        {"from": "human", "value": "1+1?"},
        {"from": "function_call", "value": '{"name": "add", "arguments": {"x": 1}}'},
        {"from": "observation", "value": '{"sum": 2}'},
        {"from": "function_call", "value": "not a call", "weight": 0},
        {"from": "tool", "value": "?"},
        {"from": "gpt", "value": "2"},
    ]
    found = normalise({"conversations": said, "tools": '[{"name": "add"}]', "system": "be brief"})
    assert found.messages == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": '{"sum": 2}'},
        {"role": "assistant", "content": "not a call", "weight": 0},
        {"role": "tool", "content": "?"},
        {"role": "assistant", "content": "2"},
    ]
    assert found.tools == [{"name": "add"}]
    assert found.rest == {}


def test_the_older_function_call_of_a_message_is_a_tool_call() -> None:
    call = {"name": "add", "arguments": '{"x": 1}'}
    found = normalise(
        {"messages": [USER, {"role": "assistant", "content": None, "function_call": call}]}
    )
    assert found.messages[1]["tool_calls"] == [{"type": "function", "function": call}]
    assert "function_call" not in found.messages[1]


def test_parts_that_are_all_text_are_put_together() -> None:
    parts = [{"type": "text", "text": "one "}, {"text": "two"}, " three"]
    found = normalise({"messages": [{"role": "user", "content": parts}, ANSWER]})
    assert found.messages[0]["content"] == "one two three"


@pytest.mark.parametrize("key", ["system", "system_prompt"])
def test_system_columns(key: str) -> None:
    system = {"role": "system", "content": "s"}
    found = normalise({"instruction": "q", "output": "a", key: "s"})
    assert (found.messages[0], found.rest) == (system, {})
    found = normalise({"messages": [{**system, "content": "own"}, ANSWER], key: "s"})
    assert (found.messages[0]["content"], found.rest) == ("own", {key: "s"})
    found = normalise({"instruction": "q", "output": "a", key: " "})
    assert (found.messages, found.rest) == ([USER, ANSWER], {})
    found = normalise({"instruction": "q", "output": "a", key: 7})
    assert (found.messages, found.rest) == ([USER, ANSWER], {key: 7})


@pytest.mark.parametrize(
    ("written", "tools"),
    [
        ([{"name": "f"}], [{"name": "f"}]),
        ('[{"name": "f"}]', [{"name": "f"}]),
        ({"name": "f"}, [{"name": "f"}]),
        (['{"name": "f"}'], [{"name": "f"}]),
        ([], None),
        ("", None),
        ("[]", None),
        (None, None),
    ],
)
@pytest.mark.parametrize("key", ["tools", "functions"])
def test_tools_in_all_the_ways_they_come(key: str, written: Any, tools: Any) -> None:
    found = normalise({"messages": [USER, ANSWER], key: written})
    assert found.tools == tools
    assert found.rest.get(key) is None


def test_nulls_of_columns_are_no_content_of_calls_and_tools_but_nulls_of_json_are() -> None:
    call = {"function": {"name": "f", "arguments": {"x": None, "y": [{"z": None}]}}, "id": None}
    row = {"messages": [USER, {**ANSWER, "tool_calls": [call]}], "tools": [{"n": None, "m": 1}]}
    as_json = normalise(copy.deepcopy(row))
    assert (as_json.messages[1]["tool_calls"], as_json.tools) == ([call], row["tools"])
    columnar = normalise(copy.deepcopy(row), columnar=True)
    bare = {"function": {"name": "f", "arguments": {"y": [{}]}}}
    assert (columnar.messages[1]["tool_calls"], columnar.tools) == ([bare], [{"m": 1}])


def test_input_and_context_stay_in_the_row_and_what_became_messages_does_not() -> None:
    row = {"instruction": "q", "input": "i", "output": "a", "context": "c", "n": 1, "l": [1]}
    assert normalise(row).rest == {"input": "i", "context": "c", "n": 1, "l": [1]}
    row = {"instruction": "q", "context": "c", "response": "a", "category": "qa"}
    assert normalise(row).rest == {"context": "c", "category": "qa"}


@pytest.mark.parametrize("key", ["licence", "license"])
def test_the_licence_of_a_row(key: str) -> None:
    found = normalise({"prompt": "q", "completion": "a", key: "MIT"})
    assert (found.licence, found.rest) == ("MIT", {})
    assert normalise({"prompt": "q", "completion": "a", key: " "}).licence is None


values = st.none() | st.text(max_size=5) | st.integers() | st.lists(st.text(max_size=3), max_size=2)
keys = st.sampled_from(
    [
        *("instruction", "input", "output", "context", "response", "prompt", "completion"),
        *("messages", "conversations", "system", "history", "tools", "functions"),
        *("chosen", "rejected", "licence", "other"),
    ]
)
turns = st.lists(
    st.dictionaries(
        st.sampled_from(["role", "content", "from", "value", "tool_calls", "name", "train"]),
        values | st.sampled_from(["user", "assistant", "tool", "function_call", "{}"]),
        max_size=4,
    ),
    max_size=3,
)


@given(st.dictionaries(keys, values | turns, max_size=8), st.booleans())
@settings(max_examples=500, deadline=None)
def test_any_row_is_taken_or_refused_for_a_reason(row: dict[str, Any], columnar: bool) -> None:
    before = copy.deepcopy(row)
    try:
        found = normalise(row, columnar=columnar)
    except Rejected as error:
        assert error.reason.isidentifier() and error.reason.islower()
        return
    assert all(m["role"] in ("system", "user", "assistant", "tool") for m in found.messages)
    last = [m for m in found.messages if m["role"] == "assistant"][-1]
    assert last.get("tool_calls") or last["content"].strip()
    assert all(before[key] == value for key, value in found.rest.items())
