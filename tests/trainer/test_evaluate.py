"""Held-out evaluation against one row at a time by plain transformers."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tamis.errors import DataError
from tamis.language.generate import greedy, stop_ids
from tamis.language.load import load_model
from tamis.language.render import Rendered, prompt, render, renderings
from tamis.recipe import Model
from tamis.trainer.data import prepare
from tamis.trainer.evaluate import difference, evaluate, metrics

CALLS = [{"function": {"name": "f", "arguments": {}}}]
LIMIT = 8


def literal_nll(model: Any, tokenizer: Any, messages: Any) -> tuple[float, int, int]:
    """Sum of -log p, tokens and right tokens of a row, from whole logits."""
    return nll_of(model, render(messages, None, tokenizer, prompt_style="chat"))


def nll_of(model: Any, row: Rendered) -> tuple[float, int, int]:
    import torch

    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([row.ids])).logits[0].double()
    total, right = 0.0, 0
    at = [j for j, on in enumerate(row.labelled) if on]
    for j in at:
        total -= float(torch.log_softmax(logits[j - 1], dim=-1)[row.ids[j]])
        right += int(logits[j - 1].argmax()) == row.ids[j]
    return total, len(at), right


def literal_greedy(model: Any, ids: list[int], stops: list[int], limit: int) -> list[int]:
    """Argmax, one forward a token, no cache, no batch."""
    import torch

    made: list[int] = []
    while len(made) < limit:
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([[*ids, *made]])).logits[0, -1]
        token = int(logits.argmax())
        if token in stops:
            break
        made.append(token)
    return made


@pytest.fixture(scope="module")
def found(tiny: Model, table: Callable[..., pa.Table], sums: Any) -> pa.Table:
    return run(table(sums), tiny)


def run(rows: pa.Table, model: Model, limit: int = LIMIT, style: str = "chat") -> pa.Table:
    @contextmanager
    def silent(title: str, total: int) -> Iterator[Callable[[int], None]]:
        yield lambda rows: None

    given = model.model_copy(update={"prompt_style": style})
    return evaluate(rows, given, max_new_tokens=limit, device="cpu", progress=silent)


def test_sums_equal_one_row_at_a_time(
    found: pa.Table, tiny: Model, tokenizer: Any, sums: Any
) -> None:
    model = load_model(tiny, "cpu")
    wanted = [literal_nll(model, tokenizer, messages) for messages in sums]
    np.testing.assert_allclose(found["nll_sum"], [w[0] for w in wanted], rtol=1e-5)
    assert found["tokens"].to_pylist() == [w[1] for w in wanted]
    assert found["correct"].to_pylist() == [w[2] for w in wanted]
    assert found["reason"].null_count == len(sums)


def test_answers_equal_plain_greedy_decoding(
    found: pa.Table, tiny: Model, tokenizer: Any, sums: Any
) -> None:
    model = load_model(tiny, "cpu")
    stops = stop_ids(tokenizer, prompt_style="chat")
    assert stops == [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|end|>")]
    for messages, text, stopped in zip(
        sums, found["generated"].to_pylist(), found["stopped"].to_pylist(), strict=True
    ):
        before = prompt(messages[:-1], None, tokenizer, prompt_style="chat")
        made = literal_greedy(model, before, stops, LIMIT)
        assert text == tokenizer.decode(made, skip_special_tokens=True)
        assert stopped == (len(made) < LIMIT)


def test_generation_ignores_sampling_settings_of_the_model(tiny: Model, tokenizer: Any) -> None:
    from transformers import GenerationConfig

    model = load_model(tiny, "cpu")
    ids = prompt([{"role": "user", "content": "sum?"}], None, tokenizer, prompt_style="chat")
    want = literal_greedy(model, ids, [0], 6)
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=9.0, repetition_penalty=5.0
    )
    made = greedy(model, [ids], stops=[0], max_new_tokens=6, advance=lambda n: None)
    assert made == [want]


def test_a_match_is_up_to_case_and_white_space(
    tiny: Model, table: Callable[..., pa.Table], tokenizer: Any
) -> None:
    question = {"role": "user", "content": "what?"}
    rows = table([[question, {"role": "assistant", "content": "x"}]])
    made = run(rows, tiny, 6)["generated"][0].as_py()
    words = made.split()
    assert words, "the tiny model says nothing; another seed is needed"
    answers = [made, f"  {made.swapcase()}\n", "\n ".join(words), made + "x", "x" + made]
    rows = table([[question, {"role": "assistant", "content": a}] for a in answers])
    assert run(rows, tiny, 6)["match"].to_pylist() == [True, True, True, False, False]


def test_rows_that_cannot_be_judged(
    tiny: Model, table: Callable[..., pa.Table], sums: Any, tokenizer: Any
) -> None:
    user = {"role": "user", "content": "what?"}
    long = {"role": "user", "content": " ".join(map(str, range(300)))}
    rows = [
        sums[0],
        [user, {"role": "assistant", "content": " "}],
        [user, {"role": "assistant", "content": "a", "tool_calls": CALLS}],
        [long, {"role": "assistant", "content": "five"}],
        [user],
    ]
    found = run(table(rows), tiny)
    assert found["reason"].to_pylist() == [
        None,
        "empty_answer",
        "drops_tool_calls",
        "no_trained_token",
        "no_trained_token",
    ]
    assert found["tokens"].to_pylist()[1:] == [0, 0, 0, 0]
    assert found["match"].to_pylist()[1:] == [None, None, False, None]
    # Too long for a loss, yet it can be asked: of its prompt the end is kept.
    before = prompt([long], None, tokenizer, prompt_style="chat")[-(256 - LIMIT) :]
    stops = stop_ids(tokenizer, prompt_style="chat")
    made = literal_greedy(load_model(tiny, "cpu"), before, stops, LIMIT)
    assert found["generated"][3].as_py() == tokenizer.decode(made, skip_special_tokens=True)
    assert metrics(found, resamples=100, seed=0)["exact_match"]["value"] == 0.0


def test_figures(found: pa.Table) -> None:
    figures = metrics(found, resamples=500, seed=1)
    nll, tokens = found["nll_sum"].to_numpy(), found["tokens"].to_numpy()
    assert figures["nll"]["value"] == pytest.approx(nll.sum() / tokens.sum())
    assert figures["nll"]["low"] < figures["nll"]["value"] < figures["nll"]["high"]
    even = figures["groups"]["even"]
    assert even["nll"]["value"] == pytest.approx(nll[::2].sum() / tokens[::2].sum())
    assert even["rows"] == 20 and figures["rows"] == 40
    right = found["correct"].to_numpy().sum()
    assert figures["token_accuracy"]["value"] == pytest.approx(right / tokens.sum())
    assert figures == metrics(found, resamples=500, seed=1)


def test_without_generation_there_is_no_match(
    tiny: Model, table: Callable[..., pa.Table], sums: Any, found: pa.Table
) -> None:
    rows = run(table(sums), tiny, 0)
    assert rows["generated"].null_count == rows["match"].null_count == len(sums)
    assert rows["nll_sum"].equals(found["nll_sum"])
    assert "exact_match" not in metrics(rows, resamples=100, seed=0)


def test_differences_are_paired(found: pa.Table) -> None:
    worse = found.set_column(
        found.schema.get_field_index("nll_sum"),
        "nll_sum",
        pa.array(found["nll_sum"].to_numpy() + 0.5 * found["tokens"].to_numpy()),
    )
    shift = difference(worse, found, resamples=300, seed=0)["nll"]
    # Every row got worse by the same per token: paired, there is nothing left to vary.
    assert shift["value"] == pytest.approx(0.5)
    assert shift["low"] == pytest.approx(0.5) and shift["high"] == pytest.approx(0.5)
    with pytest.raises(DataError, match="different rows"):
        difference(found, found.take(list(range(39, -1, -1))), resamples=100, seed=0)


def test_plain_style(tiny: Model, table: Callable[..., pa.Table], tokenizer: Any) -> None:
    messages = [{"role": "user", "content": "sum?"}, {"role": "assistant", "content": "five"}]
    row = run(table([messages]), tiny, 4, style="plain").to_pylist()[0]
    # An answer to nothing: its first token cannot be predicted, and nothing can be asked.
    alone = run(table([messages[1:]]), tiny, 4, style="plain").to_pylist()[0]
    assert alone["tokens"] == row["tokens"] - 1 and alone["generated"] is None
    assert row["tokens"] == len(tokenizer("five")["input_ids"]) + 1
    made = literal_greedy(load_model(tiny, "cpu"), tokenizer("sum?\n\n")["input_ids"], [0], 4)
    assert row["generated"] == tokenizer.decode(made, skip_special_tokens=True)


def test_rows_that_the_template_rewrites_count_as_they_are_trained(
    tiny: Model, rewriting: Any, table: Callable[..., pa.Table], sums: Any, tmp_path: Path
) -> None:
    shutil.copytree(str(tiny.path), tmp_path / "lm")
    rewriting.save_pretrained(tmp_path / "lm")
    model = tiny.model_copy(update={"path": str(tmp_path / "lm")})
    found = run(table(sums[:7]), model, limit=0)  # rows 0 and 5 have two answers
    lm = load_model(model, "cpu")
    for i, messages in enumerate(sums[:7]):
        ends = [j for j, m in enumerate(messages) if m["role"] == "assistant"]
        only = [{**m, "train": j == ends[-1]} for j, m in enumerate(messages)]
        parts = [messages[: ends[0] + 1], only] if len(ends) > 1 else [messages]
        wanted = [literal_nll(lm, rewriting, part) for part in parts[:1]]
        if len(ends) > 1:
            spent = renderings(only, None, rewriting, prompt_style="chat")
            wanted.append(nll_of(lm, *spent))
        assert found["tokens"][i].as_py() == sum(w[1] for w in wanted)
        assert found["nll_sum"][i].as_py() == pytest.approx(sum(w[0] for w in wanted), rel=1e-5)
    trained = prepare(table(sums[:7]), rewriting, prompt_style="chat", max_length=256)
    assert sum(found["tokens"].to_pylist()) == trained.targets().sum()
