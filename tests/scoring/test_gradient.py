"""The gradient scorer: which rows have one, and what it is of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tamis.errors import RecipeError
from tamis.recipe import Model
from tamis.scoring import registry


def build(folder: Path, **given: Any) -> Any:
    options = given.pop("options", {})
    model = Model(path=str(folder), prompt_style="plain", **given)
    return registry.build("gradient", model=model, options=options, device="cpu")


def test_norm_is_of_the_mean_answer_loss(
    tiny_lm: Callable[..., Path],
    batch: Callable[..., pa.RecordBatch],
    pair: Callable[[str, str], list[dict[str, Any]]],
) -> None:
    folder = tiny_lm()
    rows = [("one", "first"), ("a longer question", "x"), ("q", "a much longer answer")]
    scorer = build(folder, options={"modules": ["v_proj"], "dimension": 12})
    told: list[int] = []
    found = scorer.score(batch([pair(*r) for r in rows]), advance=told.append)
    assert tuple(found) == scorer.fields
    assert sum(told) == len(rows)
    assert found["vector"].shape == (3, 12)
    assert found["vector"].dtype == np.float32
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    weight = model.model.layers[-1].self_attn.v_proj.weight
    for i, (question, answer) in enumerate(rows):
        start = tokenizer(f"{question}\n\n", add_special_tokens=False)["input_ids"]
        ids = [*start, *tokenizer(answer, add_special_tokens=False)["input_ids"], 0]
        labels = torch.tensor([[*[-100] * len(start), *ids[len(start) :]]])
        loss = model(input_ids=torch.tensor([ids]), labels=labels).loss
        (expected,) = torch.autograd.grad(loss, weight)
        assert found["norm"][i] == pytest.approx(float(expected.norm()), rel=1e-5)
        assert found["tokens"][i] == len(ids) - len(start)


def test_undefined_is_null_with_a_reason(
    tiny_lm: Callable[..., Path],
    batch: Callable[..., pa.RecordBatch],
    pair: Callable[[str, str], list[dict[str, Any]]],
) -> None:
    rows = [pair("q", "fine"), [{"role": "user", "content": "q"}], pair("q" * 200, "a")]
    told: list[int] = []
    found = build(tiny_lm()).score(batch(rows), advance=told.append)
    assert found["reason"].tolist() == [None, "no_text_answer", "no_answer_token_left"]
    assert np.isnan(found["norm"]).tolist() == [False, True, True]
    assert np.isnan(found["vector"]).all(axis=1).tolist() == [False, True, True]
    np.testing.assert_equal(found["cut"], [0, np.nan, 1])
    assert sum(told) == 3


def test_options_are_checked_and_determine_the_values(tiny_lm: Callable[..., Path]) -> None:
    folder = tiny_lm()
    identities = [
        build(folder, options=options).identity()
        for options in ({}, {"modules": ["v_proj"]}, {"blocks": 0}, {"dimension": 8}, {"seed": 1})
    ]
    assert len({repr(i) for i in identities}) == len(identities)
    with pytest.raises(RecipeError, match="dimension >= 1"):
        build(folder, options={"dimension": 0})


@pytest.mark.model
def test_the_real_model_learns_more_from_a_wrong_answer(
    base_model: Path,
    batch: Callable[..., pa.RecordBatch],
    pair: Callable[[str, str], list[dict[str, Any]]],
) -> None:
    rows = [
        pair("What is the capital of France?", "The capital of France is Paris."),
        pair("What is the capital of France?", "Zqx vorp lint ux blarg muv tsk."),
    ]
    norm = build(base_model).score(batch(rows), advance=lambda n: None)["norm"]
    assert norm[1] > norm[0] > 0
