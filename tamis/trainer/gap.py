"""How much worse a model knows the given answer than its own: what it has still to learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from tamis.recipe import Model
from tamis.samples import MESSAGES, Message, decode_messages, encode_message
from tamis.trainer.evaluate import Progress, evaluate

# Raise by hand when the same model and rows give other values.
VERSION = 1


def answer_gap(
    rows: pa.Table,
    model: Model,
    *,
    max_new_tokens: int,
    device: str,
    progress: Progress,
    title: str,
) -> pa.Table:
    """Score rows (`id`, `messages`, `tools`; messages as in `tamis.samples`) by a model; one row
    each: `id`, `score` = `gold` - `own`, the text `generated`, `reason`.

    `gold` is the mean -log p of the tokens of the row's last answer, `own` that of the model's
    greedy answer to the same prompt. What stands before is not scored, nor the token that ends the
    turn, which an answer that reaches `max_new_tokens` does not have. So `score` is log PPL(gold) -
    log PPL(own), above 0 where the model prefers its own words. A row without an answer in text,
    or whose own answer is empty, has no score and a reason.

    Source: Yu et al., "Diversify and Conquer", 2024 (arXiv 2409.11378), equation 7, which does not
    say whether the prompt counts.
    """
    given: dict[str, Any] = {"device": device, "progress": progress, "count_ends": False}
    conversations = [_until_answer(m) for m in decode_messages(rows["messages"])]
    asked = _table(rows, conversations)
    gold = evaluate(asked, model, max_new_tokens=max_new_tokens, title=title, **given)
    texts = gold["generated"].to_pylist()
    answered = [i for i, text in enumerate(texts) if text and text.strip()]
    replaced = [[*conversations[i][:-1], _answer(texts[i])] for i in answered]
    again = _table(rows.take(pa.array(answered, pa.int64())), replaced)
    own = evaluate(again, model, max_new_tokens=0, title=f"{title}, own answers", **given)
    mean = np.full(len(texts), np.nan)
    mean[answered] = _mean(own)
    reason = [
        why
        or (None if text and text.strip() else "empty_answer" if text is not None else "no_text")
        for why, text in zip(gold["reason"].to_pylist(), texts, strict=True)
    ]
    for i, why in zip(answered, own["reason"].to_pylist(), strict=True):
        reason[i] = reason[i] or why
    return pa.table(
        {
            "id": rows["id"],
            "score": pa.array(_mean(gold) - mean, from_pandas=True),
            "gold": pa.array(_mean(gold), from_pandas=True),
            "own": pa.array(mean, from_pandas=True),
            "generated": pa.array(texts, pa.string()),
            "reason": pa.array(reason, pa.string()),
        }
    )


def _until_answer(messages: list[Message]) -> list[Message]:
    """The conversation up to its last answer, the only one that counts."""
    last = max((i for i, m in enumerate(messages) if m["role"] == "assistant"), default=-1)
    return [
        {**m, "train": i == last} if m["role"] == "assistant" else m
        for i, m in enumerate(messages[: last + 1])
    ]


def _answer(text: str) -> Message:
    return {"role": "assistant", "content": text, "train": True}


def _table(rows: pa.Table, conversations: list[list[Message]]) -> pa.Table:
    messages = [[encode_message(m) for m in row] for row in conversations]
    columns: dict[str, Any] = {
        "id": rows["id"],
        "group": pa.nulls(rows.num_rows, pa.string()),
        "messages": pa.array(messages, MESSAGES),
        "tools": rows["tools"],
    }
    return pa.table(columns)


def _mean(found: pa.Table) -> np.ndarray:
    """Mean -log p a token of each row, NaN where none was scored."""
    tokens = found["tokens"].to_numpy().astype(np.float64)
    tokens[tokens == 0] = np.nan
    means: np.ndarray = found["nll_sum"].to_numpy() / tokens
    return means
