"""Held-out evaluation: exact sums of the loss, token accuracy, exact match of greedy answers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from tamis.errors import DataError
from tamis.language import tally
from tamis.language.batch import batches
from tamis.language.generate import greedy, stop_ids
from tamis.language.load import load_model, load_tokenizer, max_length, vocabulary
from tamis.language.packed import pack
from tamis.language.parallel import spread
from tamis.language.render import Rendered, cut, prompt, renderings
from tamis.language.tally import Tally
from tamis.language.template import RenderError
from tamis.numerics.bootstrap import paired_difference, ratio_interval
from tamis.recipe import Model
from tamis.samples import Message, decode_messages, decode_tools
from tamis.trainer.data import NO_TOKEN
from tamis.trainer.loss import terms_forward

# Raise by hand when the same model and rows give other values.
VERSION = 2
ROWS = pa.schema(
    [
        ("id", pa.string()),
        ("group", pa.string()),
        ("tokens", pa.int32()),
        ("nll_sum", pa.float64()),
        ("correct", pa.int32()),
        ("generated", pa.string()),
        ("match", pa.bool_()),
        ("stopped", pa.bool_()),
        ("reason", pa.string()),
    ]
)
# The figures of an evaluation: name, numerator, denominator (both columns of `ROWS`).
METRICS = {
    "nll": ("nll_sum", "tokens"),
    "token_accuracy": ("correct", "tokens"),
    "exact_match": ("match", "asked"),
    "stopped": ("stopped", "asked"),
}
COMPARED = ("nll", "token_accuracy", "exact_match")
_TOKENS = {"cpu": 1024, "cuda": 32_768}

Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


@dataclass(frozen=True, slots=True)
class _Row:
    """The parts of a row as ids and labels, and what is asked of the model."""

    parts: list[tuple[np.ndarray, np.ndarray]]
    prompt: list[int]
    answer: str | None
    reason: str | None


def evaluate(
    rows: pa.Table,
    model: Model,
    *,
    max_new_tokens: int,
    device: str,
    progress: Progress,
    title: str = "evaluate",
    count_ends: bool = True,
) -> pa.Table:
    """Evaluate a model on rows (`id`, `group`, `messages`, `tools`; messages as in
    `tamis.samples`); returns one row each, `ROWS`, in their order.

    `nll_sum` is the sum of -log p over the row's `tokens` that would carry loss in training, of
    which `correct` are the most probable ones; rows are cut as in training. `generated` is the
    greedy continuation of what stands before the last assistant turn, at most `max_new_tokens`
    tokens (0: none is made); `match` tells whether it equals that turn up to case and white space,
    and is null where that turn has no text. A row that cannot be rendered or has no trained token
    left has the `reason`, 0 tokens, and counts as no match. Dropout is off, nothing is weighted.
    Without `count_ends` the tokens that end a turn are not among those of `nll_sum`.
    """
    tokenizer, limit = load_tokenizer(model), max_length(model)
    lm = pack(load_model(model, device))
    stops = stop_ids(tokenizer, prompt_style=model.prompt_style, config=lm.generation_config)
    unscored = [] if count_ends else stops
    prepared, asked = _prepared(rows, model, tokenizer, max_new_tokens, unscored)
    with progress(title, len(prepared) + len(asked)) as advance:
        written, stopped = _generate(
            lm, tokenizer, stops, prepared, asked, min(max_new_tokens, limit - 1), advance
        )
        lm.forward = terms_forward(lm, vocabulary(model))
        sums = _sums(lm, prepared, device, advance)
    return pa.table(
        {
            "id": rows["id"],
            "group": rows["group"],
            "tokens": [sum(int((t != -100).sum()) for _, t in r.parts) for r in prepared],
            "nll_sum": sums[:, 0],
            "correct": sums[:, 1].astype(np.int32),
            "generated": [written.get(i) for i in range(len(prepared))],
            "match": [
                None
                if r.answer is None or not max_new_tokens
                else i in written and _normal(written[i]) == _normal(r.answer)
                for i, r in enumerate(prepared)
            ],
            "stopped": [stopped.get(i) for i in range(len(prepared))],
            "reason": [r.reason for r in prepared],
        },
        schema=ROWS,
    )


def reads(rows: pa.Table, model: Model, *, max_new_tokens: int) -> Tally:
    """What `evaluate` would read of these rows; `written` is the most it can write."""
    tokenizer, most = load_tokenizer(model), min(max_new_tokens, max_length(model) - 1)
    prepared, asked = _prepared(rows, model, tokenizer, max_new_tokens, [])
    lengths = [len(ids) for row in prepared for ids, _ in row.parts]
    lengths += [len(prepared[i].prompt) for i in asked]
    return Tally(len(lengths), sum(lengths), len(asked) * most)


def metrics(rows: pa.Table, *, resamples: int, seed: int) -> dict[str, Any]:
    """The figures of an evaluation: for each of `METRICS`, its value, the bounds of its 95 %
    bootstrap interval over rows, and the same for every group under `groups`.

    `nll` is the sum over all rows of -log p, divided by the sum of their tokens: in nats a token.
    A figure without any row to it is left out.
    """
    names = sorted({g for g in rows["group"].to_pylist() if g is not None})
    return {
        **_figures(rows, resamples, seed),
        "groups": {
            name: _figures(rows.filter(_equal(rows["group"], name)), resamples, seed)
            for name in names
        },
    }


def difference(a: pa.Table, b: pa.Table, *, resamples: int, seed: int) -> dict[str, Any]:
    """Every compared figure of A minus that of B, with the 95 % interval of a paired bootstrap.

    Both tables must be of the same rows in the same order; raises `DataError` otherwise.
    """
    if not a["id"].equals(b["id"]):
        raise DataError("the two evaluations are of different rows: evaluate both on the same file")
    out = {}
    for name in COMPARED:
        (top_a, bottom_a), (top_b, bottom_b) = figure_terms(a, name), figure_terms(b, name)
        if bottom_a.sum() and bottom_b.sum():
            rng = np.random.default_rng(seed)
            found = paired_difference(
                top_a, bottom_a, top_b, bottom_b, resamples=resamples, rng=rng
            )
            out[name] = _named(found)
    return out


def _prepared(
    rows: pa.Table, model: Model, tokenizer: Any, max_new_tokens: int, unscored: Sequence[int]
) -> tuple[list[_Row], list[int]]:
    """All rows, and the numbers of those that are to be answered."""
    limit = max_length(model)
    room = max(1, limit - max_new_tokens)
    turns, tools = decode_messages(rows["messages"]), decode_tools(rows["tools"])
    found = [
        _prepare(messages, offered, tokenizer, model.prompt_style, limit, room, unscored)
        for messages, offered in zip(turns, tools, strict=True)
    ]
    asked = [i for i, r in enumerate(found) if r.answer is not None and r.prompt]
    return found, asked if max_new_tokens > 0 else []


def _prepare(
    messages: Sequence[Message],
    tools: Any,
    tokenizer: Any,
    prompt_style: str,
    limit: int,
    room: int,
    unscored: Sequence[int],
) -> _Row:
    last = max((i for i, m in enumerate(messages) if m["role"] == "assistant"), default=-1)
    text = messages[last].get("content") if last >= 0 else None
    called = last >= 0 and bool(messages[last].get("tool_calls"))
    answer = text if text and text.strip() and not called else None
    try:
        whole = renderings(messages, tools, tokenizer, prompt_style=prompt_style)
        before = (
            prompt(messages[:last], tools, tokenizer, prompt_style=prompt_style) if last > 0 else []
        )
    except RenderError as error:
        return _Row([], [], answer, error.reason)
    labelled = [_labelled(cut(part, limit)[0], unscored) for part in whole]
    parts = [(ids, labels) for ids, labels in labelled if (labels != -100).any()]
    # What is nearest to the answer says most about it.
    return _Row(parts, before[-room:], answer, None if parts else NO_TOKEN)


def _labelled(part: Rendered, unscored: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    ids = np.array(part.ids, dtype=np.int64)
    labels = np.where(part.labelled, ids, -100)
    labels[:1] = -100
    labels[np.isin(ids, unscored)] = -100
    return ids, labels


def _generate(
    lm: Any,
    tokenizer: Any,
    stops: Sequence[int],
    rows: Sequence[_Row],
    asked: Sequence[int],
    max_new_tokens: int,
    advance: Callable[[int], None],
) -> tuple[dict[int, str], dict[int, bool]]:
    """The greedy answers of the asked rows by row, and whether each came to its end by itself."""
    made = greedy(
        lm,
        [rows[i].prompt for i in asked],
        stops=stops,
        max_new_tokens=max_new_tokens,
        advance=advance,
    )
    texts = tokenizer.batch_decode(made, skip_special_tokens=True) if made else []
    ended = [len(ids) < max_new_tokens for ids in made]
    return dict(zip(asked, texts, strict=True)), dict(zip(asked, ended, strict=True))


def _sums(lm: Any, rows: Sequence[_Row], device: str, advance: Callable[[int], None]) -> np.ndarray:
    """(n, 2): the sum of -log p and the number of most probable tokens of each row."""
    import torch

    sums = np.zeros((len(rows), 2))
    parts = [(i, *part) for i, row in enumerate(rows) for part in row.parts]
    ends = {row: at for at, (row, *_) in enumerate(parts)}  # a row is done with its last part
    lengths = np.array([len(ids) for _, ids, _ in parts], dtype=np.int64)
    groups = list(batches(lengths, _TOKENS[device]))

    def terms(at: np.ndarray) -> dict[str, np.ndarray]:
        ids, labels = (_padded([parts[i][n] for i in at], fill) for n, fill in ((1, 0), (2, -100)))
        with torch.inference_mode():
            out = lm(
                input_ids=torch.from_numpy(ids).to(device),
                labels=torch.from_numpy(labels).to(device),
            )
        return {name: out[name].cpu().numpy() for name in ("row", "nll", "correct")}

    with spread(device) as run:
        for at, found in zip(groups, run(terms, groups), strict=True):
            row = np.array([parts[i][0] for i in at])[found["row"]]
            # Added in float64: a long row has thousands of terms.
            np.add.at(sums[:, 0], row, found["nll"].astype(np.float64))
            np.add.at(sums[:, 1], row, found["correct"])
            tally.note(len(at), int(lengths[at].sum()))
            advance(sum(ends[parts[i][0]] == i for i in at.tolist()))
    advance(len(rows) - len(ends))
    return sums


def _padded(rows: Sequence[np.ndarray], fill: int) -> np.ndarray:
    out = np.full((len(rows), max(map(len, rows))), fill, dtype=np.int64)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return out


def _normal(text: str) -> str:
    """A text without differences of case and white space."""
    return re.sub(r"\s+", " ", text).strip().casefold()


def _figures(rows: pa.Table, resamples: int, seed: int) -> dict[str, Any]:
    figures: dict[str, Any] = {"rows": rows.num_rows}
    for name in METRICS:
        top, bottom = figure_terms(rows, name)
        if bottom.sum():
            rng = np.random.default_rng(seed)
            figures[name] = _named(ratio_interval(top, bottom, resamples=resamples, rng=rng))
    return figures


def figure_terms(rows: pa.Table, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Numerator and denominator of a figure of `METRICS`, one entry a row."""
    top, bottom = METRICS[name]
    values = rows[top].to_numpy(zero_copy_only=False)
    if bottom == "asked":
        asked = np.array([v is not None for v in values], dtype=np.float64)
        return np.array([bool(v) for v in values], dtype=np.float64), asked
    return values.astype(np.float64), rows[bottom].to_numpy().astype(np.float64)


def _equal(column: pa.ChunkedArray, value: str) -> pa.Array:
    import pyarrow.compute as pc

    return pc.equal(column, value)


def _named(found: tuple[float, float, float]) -> Mapping[str, float]:
    return dict(zip(("value", "low", "high"), found, strict=True))
