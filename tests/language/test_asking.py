"""A model whose weights are here, asked in words as a served one is."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from tamis.language import asking
from tamis.language.endpoint import NoReply, turns
from tamis.language.replies import Reply
from tamis.recipe import Model

TASK = [{"role": "system", "content": "Grade."}, {"role": "user", "content": "Is it good?"}]
NUMBERS = ["1", "2", "3"]


@pytest.fixture(scope="module")
def folder(tiny_lm: Callable[..., Path]) -> Path:
    return tiny_lm(seed=3)


def local(folder: Path, style: str = "plain", **given: Any) -> asking.Asker:
    model = Model.model_validate({"path": str(folder), "prompt_style": style, **given})
    return asking.opened(model, "cpu")


def next_token(folder: Path, ids: list[int]) -> np.ndarray:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.inference_mode():
        logits = model(torch.tensor([ids])).logits[0, -1]
    return torch.log_softmax(logits.double(), -1).numpy()


@pytest.mark.parametrize(
    ("style", "text"),
    [
        ("plain", "Grade.\n\nIs it good?\n\nGrade:"),
        ("chat", "<|system|>Grade.<|end|><|user|>Is it good?<|end|><|assistant|>"),
    ],
)
def test_what_is_likely_is_told_of_all(
    folder: Path, style: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "LEAST_MASS", 0.0)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    told: list[int] = []
    (reply,) = local(folder, style).ask(
        [TASK], max_tokens=4, among=NUMBERS, cue="Grade:", done=told.append
    )
    assert isinstance(reply, Reply) and sum(told) == 1
    there = next_token(folder, tokenizer(text)["input_ids"])
    wanted = there[tokenizer.convert_tokens_to_ids(NUMBERS)]
    ((token, likely),) = reply.tokens
    assert [likely[k] for k in NUMBERS] == pytest.approx(wanted.tolist(), abs=1e-5)
    assert token == reply.text == NUMBERS[int(wanted.argmax())]


def test_where_nothing_of_it_is_likely_the_reply_is_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "LEAST_MASS", 1.1)
    asker = local(folder)
    (written,) = asker.ask([TASK], max_tokens=4, among=NUMBERS)
    assert written == asker.ask([TASK], max_tokens=4)[0] and written.tokens == ()
    # Greedy: each token is the most probable one behind the text so far.
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = start = tokenizer("Grade.\n\nIs it good?")["input_ids"]
    for _ in range(4):
        best = int(next_token(folder, ids).argmax())
        if best == tokenizer.eos_token_id:
            break
        ids = [*ids, best]
    assert written.text == tokenizer.decode(ids[len(start) :], skip_special_tokens=True)


def test_replies_do_not_depend_on_the_others(folder: Path) -> None:
    asker = local(folder)
    prompts = [[{"role": "user", "content": "Tell me " + "more " * k}] for k in range(5)]
    together = asker.ask(prompts, max_tokens=6)
    assert together == [asker.ask([p], max_tokens=6)[0] for p in prompts]


def test_a_template_without_system_prompts_gets_one_turn(folder: Path, tmp_path: Path) -> None:
    strict = tmp_path / "strict"
    shutil.copytree(folder, strict)
    tokenizer = AutoTokenizer.from_pretrained(strict)
    refuse = "{{ raise_exception('no') if messages[0].role == 'system' }}"
    tokenizer.chat_template = refuse + tokenizer.chat_template
    tokenizer.save_pretrained(strict)
    joined = [{"role": "user", "content": "Grade.\n\nIs it good?"}]
    asker = local(strict, "chat")
    assert asker.ask([TASK], max_tokens=4) == local(folder, "chat").ask([joined], max_tokens=4)
    only = [{"role": "system", "content": "Grade."}]
    assert asker.ask([only], max_tokens=4) == [NoReply("template_failed")]


def test_what_does_not_fit_is_counted(folder: Path) -> None:
    asker = local(folder)
    assert asker.excess("x" * 130, 10, "") == 130 + 10 - 128
    assert asker.excess("x" * 100, 10, "Grade:") == 100 + 2 + 6 + 10 - 128
    assert turns("x") == [{"role": "user", "content": "x"}]
