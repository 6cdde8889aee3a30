"""The gap between the given answer and the model's own, against one row at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tamis.language.generate import stop_ids
from tamis.language.load import load_model
from tamis.language.render import prompt, render
from tamis.recipe import Model
from tamis.trainer.gap import answer_gap

LIMIT = 8
CALL = [{"function": {"name": "f", "arguments": {}}}]


def run(rows: pa.Table, model: Model, progress: Any) -> pa.Table:
    return answer_gap(
        rows, model, max_new_tokens=LIMIT, device="cpu", progress=progress(), title="score"
    )


def mean_nll(lm: Any, tokenizer: Any, messages: Any) -> float:
    """Mean -log p of the text of the last turn of a rendered row, from whole logits."""
    import torch

    before = len(prompt(messages[:-1], None, tokenizer, prompt_style="chat"))
    row = render(messages, None, tokenizer, prompt_style="chat")
    with torch.inference_mode():
        logits = lm(input_ids=torch.tensor([row.ids])).logits[0].double()
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    at = [j for j, on in enumerate(row.labelled) if on and j >= before and row.ids[j] != end]
    log_p = torch.log_softmax(logits, dim=-1)
    return -float(np.mean([log_p[j - 1, row.ids[j]] for j in at]))


def own_answer(lm: Any, tokenizer: Any, messages: Any) -> str:
    """The greedy answer to what stands before the last turn, one forward a token."""
    import torch

    ids = prompt(messages[:-1], None, tokenizer, prompt_style="chat")
    stops = stop_ids(tokenizer, prompt_style="chat", config=lm.generation_config)
    made: list[int] = []
    while len(made) < LIMIT:
        with torch.inference_mode():
            token = int(lm(input_ids=torch.tensor([[*ids, *made]])).logits[0, -1].argmax())
        if token in stops:
            break
        made.append(token)
    return str(tokenizer.decode(made, skip_special_tokens=True))


def test_scores_equal_one_row_at_a_time(
    tiny: Model, tokenizer: Any, table: Callable[..., pa.Table], sums: Any, progress: Any
) -> None:
    found = run(table(sums), tiny, progress)
    assert found["id"].to_pylist() == [f"r{i:03d}" for i in range(len(sums))]
    lm = load_model(tiny, "cpu")
    scored = 0
    for i, messages in enumerate(sums):
        row = {name: found[name][i].as_py() for name in found.schema.names}
        text = own_answer(lm, tokenizer, messages)
        assert row["generated"] == text
        assert row["gold"] == pytest.approx(mean_nll(lm, tokenizer, messages), abs=1e-5)
        if not text.strip():
            assert row["reason"] == "empty_answer" and row["score"] is None
            continue
        own = [*messages[:-1], {"role": "assistant", "content": text}]
        assert row["own"] == pytest.approx(mean_nll(lm, tokenizer, own), abs=1e-5)
        assert row["score"] == pytest.approx(row["gold"] - row["own"], abs=1e-12)
        assert row["reason"] is None
        scored += 1
    assert scored > 30


def test_rows_without_a_text_to_answer_have_a_reason(
    tiny: Model, table: Callable[..., pa.Table], progress: Any
) -> None:
    ask = {"role": "user", "content": "what is two?"}
    rows = [
        [ask, {"role": "assistant", "content": None, "tool_calls": CALL}],
        [ask, {"role": "assistant", "content": "two"}, ask],
        [ask, {"role": "assistant", "content": "two"}],
        [ask, {"role": "assistant", "content": "two " * 300}],
    ]
    found = run(table(rows), tiny, progress)
    assert found["score"][0].as_py() is None and found["reason"][0].as_py()
    # What follows the last answer does not count.
    assert found["score"][1] == found["score"][2]
    assert np.isfinite(found["score"][2].as_py())
    # A row is cut as in training, and scored on what is left.
    assert np.isfinite(found["gold"][3].as_py())
