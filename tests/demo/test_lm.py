"""The demo's model: its tokenizer, its template, and that it learns."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from tamis.demo import data, lm
from tamis.demo.rows import Row
from tamis.language.render import render
from tamis.samples import decode_message, encode_message
from tamis.storage.artifact import Store

SMALL = lm.Shape(vocab=600, width=32, layers=1, heads=2, inner=64, batch=32, warmup=5, peak=1e-2)


@contextmanager
def no_progress(title: str, total: int) -> Any:
    yield lambda n: None


def said(_: str) -> None:
    """Say nothing."""


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sizes = data.Sizes(base=100, heldout=20, pretrain=1500)
    return data.write(tmp_path_factory.mktemp("data"), sizes=sizes).pretrain


@pytest.fixture(scope="module")
def rows(text: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in text.read_bytes().splitlines()]


@pytest.fixture(scope="module")
def tokenizer(rows: list[dict[str, Any]]) -> Any:
    return lm.train_tokenizer(rows, SMALL)


def test_any_text_survives_the_tokenizer(tokenizer: Any) -> None:
    for text in ("sun, moon", "价格 42。", "ß\u0000\u2028 emoji 🙂", "12345", "  two  spaces "):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


def test_the_mask_is_that_of_the_template(rows: list[dict[str, Any]], tokenizer: Any) -> None:
    for row, (ids, mask) in zip(rows[:400], lm.encode(tokenizer, rows[:400]), strict=True):
        out = tokenizer.apply_chat_template(
            row["messages"],
            tools=row.get("tools"),
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        assert ids.tolist() == out["input_ids"]
        assert mask.tolist() == [bool(m) for m in out["assistant_masks"]]


def test_the_trainer_reads_the_template_as_it_is_meant(
    rows: list[dict[str, Any]], tokenizer: Any
) -> None:
    """The assistant's spans that training and scoring find are those the model learnt from."""
    for row, (ids, mask) in zip(rows[:400], lm.encode(tokenizer, rows[:400]), strict=True):
        messages = [decode_message(encode_message(m)) for m in row["messages"]]
        rendered = render(messages, row.get("tools"), tokenizer, prompt_style="chat")
        assert list(rendered.ids) == ids.tolist()
        inside = np.zeros(len(ids), bool)
        for first, last in rendered.spans:
            inside[first:last] = True
        assert inside.tolist() == mask.tolist()


def test_calls_tools_and_results_are_all_rendered(tokenizer: Any) -> None:
    rows = data.make_pool(0, data.Sizes())["chat"]
    row = next(row for row in rows if row.tools and row.planted == "none")
    text = tokenizer.apply_chat_template(list(row.messages), tools=list(row.tools), tokenize=False)
    call = row.messages[1]["tool_calls"][0]["function"]
    for part in ("get_weather(city)", "get_price(item)", call["arguments"], row.answer):
        assert part in text
    assert row.messages[2]["content"] in text


def test_batches_hold_every_row_once_an_epoch() -> None:
    lengths = [3, 90, 4, 80, 5, 70, 6, 60, 7, 50, 8]
    shape = replace(SMALL, batch=3, epochs=2)
    batches = list(lm._batches(lengths, shape))
    assert sorted(np.concatenate(batches).tolist()) == sorted([*range(11)] * 2)
    spread = [max(lengths[i] for i in b) - min(lengths[i] for i in b) for b in batches]
    assert max(spread) <= 60


def test_loss_is_the_mean_over_the_tokens_of_answers() -> None:
    import torch

    model = lm.new_model(40, replace(SMALL, vocab=40))
    ids = np.array([[2, 9, 8, 3, 7, 1], [2, 9, 3, 6, 1, 0]])
    answers = np.array([[0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 0]], bool)
    logits = model(input_ids=torch.tensor(ids)).logits.log_softmax(-1).detach().numpy()
    losses = [-logits[r, t - 1, ids[r, t]] for r in range(2) for t in range(1, 6) if answers[r, t]]
    assert lm._loss(model, ids, answers).item() == pytest.approx(np.mean(losses), rel=1e-5)


def test_it_learns_is_sealed_and_is_reused(text: Path, tmp_path: Path) -> None:
    store = Store(tmp_path)
    model, reused = lm.trained(store, text, shape=SMALL, say=said, progress=no_progress)
    assert not reused
    assert model.facts["last_loss"] < 0.8 * model.facts["first_loss"]
    model.verify()
    again, reused = lm.trained(store, text, shape=SMALL, say=said, progress=no_progress)
    assert reused and again.key == model.key
    other, _ = lm.trained(store, text, shape=replace(SMALL, seed=1), say=said, progress=no_progress)
    assert other.key != model.key


def test_plain_transformers_reads_it(text: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    made, _ = lm.trained(Store(tmp_path), text, shape=SMALL, say=said, progress=no_progress)
    tokenizer = AutoTokenizer.from_pretrained(made.path)
    model = AutoModelForCausalLM.from_pretrained(made.path)
    assert len(tokenizer) <= model.config.vocab_size
    row = Row(({"role": "user", "content": "What is 1 plus 1?"},), "arithmetic", "")
    ids = tokenizer.apply_chat_template(
        list(row.messages), add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    out = model.generate(**ids, max_new_tokens=3, do_sample=False)
    assert out.shape[1] <= ids["input_ids"].shape[1] + 3
