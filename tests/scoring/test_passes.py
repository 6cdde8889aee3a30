"""The signals of answers against a plain forward pass of one row at a time."""

from __future__ import annotations

from collections.abc import Callable
from math import exp, log
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tamis.language import forward
from tamis.recipe import Model
from tamis.scoring import registry

# Every signal that comes out of a forward pass over the answers.
PASSES = ("nll", "perplexity", "ifd", "entropy", "el2n", "token_scores", "hidden")
Rows = list[list[dict[str, Any]]]
CALL = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {}}}]


def turns(*contents: str | None) -> list[dict[str, Any]]:
    """User and assistant in turn; None is a call of a tool and its result."""
    made: list[dict[str, Any]] = []
    for i, content in enumerate(contents):
        if content is None:
            made.append({"role": "assistant", "content": None, "tool_calls": CALL})
            made.append({"role": "tool", "content": "3", "tool_call_id": "1"})
        else:
            made.append({"role": "assistant" if i % 2 else "user", "content": content})
    return made


SINGLE: Rows = [
    turns("What is 2 + 2?", "4"),
    turns("Say hello", "hello there, how are you?"),
    turns("Größe?", "1,80 m 世界"),
    turns("x", "y" * 40),
]
MULTI: Rows = [
    turns("one", "first answer", "two", "second"),
    turns("a", "b", "c", "d", "e", "the end"),
    [{"role": "system", "content": "be brief"}, *turns("who?", "me")],
]


@pytest.fixture(scope="module")
def folder(tiny_lm: Callable[..., Path]) -> Path:
    return tiny_lm()


def build(folder: Path, *names: str, **given: Any) -> dict[str, Any]:
    style = given.pop("prompt_style", "chat")
    options = given.pop("options", {})
    model = Model(path=str(folder), prompt_style=style, **given)
    return {n: registry.build(n, model=model, options=options, device="cpu") for n in names}


def run(scorers: dict[str, Any], batch: pa.RecordBatch) -> dict[str, Any]:
    (group,) = registry.group(scorers)
    return group.score(batch, advance=lambda n: None)


class Oracle:
    """The definition, literally: text by hand, full logits, one row at a time, float64."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def logprobs(self, ids: list[int]) -> np.ndarray:
        with torch.no_grad():
            table = torch.log_softmax(
                self.model(input_ids=torch.tensor([ids])).logits[0].double(), -1
            )
        return np.array([float(table[t - 1, ids[t]]) for t in range(1, len(ids))])

    def encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def spans(self, messages: list[dict[str, Any]]) -> tuple[list[int], list[tuple[int, int]]]:
        """The ids of a chat, and the first and past last of each answer."""
        ids: list[int] = []
        answers: list[tuple[int, int]] = []
        for m in messages:
            ids += self.encode(f"<|{m['role']}|>")
            start = len(ids)
            ids += [*self.encode(m["content"]), 0]
            if m["role"] == "assistant":
                answers.append((start, len(ids)))
        return ids, answers

    def ids(self, messages: list[dict[str, Any]]) -> tuple[list[int], list[int]]:
        """The ids of a chat, and the positions of its answer tokens."""
        ids, answers = self.spans(messages)
        return ids, [t for a, z in answers for t in range(a, z)]

    def chat(self, messages: list[dict[str, Any]]) -> tuple[list[float], list[float]]:
        """Log-probabilities of the text answers in the chat, and of each by itself behind EOS."""
        ids, answers = self.spans(messages)
        whole = self.logprobs(ids)
        cond = [v for a, z in answers for v in whole[a - 1 : z - 1]]
        alone = [v for a, z in answers for v in self.logprobs([0, *ids[a:z]])]
        return cond, alone


@pytest.fixture(scope="module")
def oracle(folder: Path) -> Oracle:
    return Oracle(folder)


def test_all_three_equal_the_definition(
    folder: Path, oracle: Oracle, batch: Callable[..., pa.RecordBatch]
) -> None:
    rows = SINGLE + MULTI
    found = run(build(folder, "nll", "perplexity", "ifd"), batch(rows))
    for i, messages in enumerate(rows):
        cond, alone = oracle.chat(messages)
        assert len(cond) == len(alone)
        n, c, a = len(cond), -sum(cond) / len(cond), -sum(alone) / len(alone)
        text = "".join(m["content"] for m in messages if m["role"] == "assistant")
        expected = {
            "nll": {"mean": c, "sum": n * c, "tokens": n},
            "perplexity": {
                "ppl": exp(c),
                "bits_per_byte": n * c / log(2) / len(text.encode()),
                "tokens": n,
            },
            "ifd": {
                "loss_ratio": c / a,
                "ppl_ratio": exp(c - a),
                "log_ratio": c - a,
                "nll_cond": c,
                "nll_alone": a,
                "tokens": n,
            },
        }
        for name, fields in expected.items():
            for field, value in fields.items():
                assert found[name][field][i] == pytest.approx(value, rel=2e-5, abs=1e-5), field
            assert found[name]["reason"][i] is None
    assert all(tuple(found[n]) == s.fields for n, s in build(folder, *found).items())


def test_plain_style_is_prompt_blank_line_answer_eos(
    folder: Path, oracle: Oracle, batch: Callable[..., pa.RecordBatch]
) -> None:
    found = run(build(folder, "nll", prompt_style="plain"), batch(SINGLE))["nll"]
    for i, (user, answer) in enumerate(SINGLE):
        start = oracle.encode(f"{user['content']}\n\n")
        ids = [*start, *oracle.encode(answer["content"]), 0]
        expected = -oracle.logprobs(ids)[len(start) - 1 :].mean()
        assert found["mean"][i] == pytest.approx(expected, abs=1e-5)


def test_nothing_predicts_the_first_token_of_a_row(
    folder: Path, oracle: Oracle, batch: Callable[..., pa.RecordBatch]
) -> None:
    row = [{"role": "assistant", "content": "abcd"}]
    found = run(build(folder, "nll", "ifd", prompt_style="plain"), batch([row]))
    ids = [*oracle.encode("abcd"), 0]
    assert found["nll"]["sum"][0] == pytest.approx(-oracle.logprobs(ids).sum(), abs=1e-4)
    # The answer alone covers the same tokens: all but that one.
    alone = -oracle.logprobs([0, *ids[1:]]).mean()
    assert found["ifd"]["nll_alone"][0] == pytest.approx(alone, abs=1e-5)
    assert found["ifd"]["tokens"].tolist() == [4]


def test_pure_tool_calls_do_not_count(
    folder: Path, oracle: Oracle, batch: Callable[..., pa.RecordBatch]
) -> None:
    with_call = [
        {"role": "user", "content": "add"},
        *turns(None),
        {"role": "assistant", "content": "it is 3"},
    ]
    columns = run(build(folder, "nll", "ifd"), batch([with_call], [TOOLS]))
    answer = [*oracle.encode("it is 3"), 0]
    assert columns["nll"]["tokens"].tolist() == [len(answer)]
    alone = -oracle.logprobs([0, *answer]).mean()
    assert columns["ifd"]["nll_alone"][0] == pytest.approx(alone, abs=1e-5)


def test_bytes_are_those_of_what_the_tokens_spell(
    folder: Path, batch: Callable[..., pa.RecordBatch]
) -> None:
    row = [{"role": "user", "content": "add"}, {"role": "assistant", "content": "Ä"}]
    row[1]["tool_calls"] = CALL
    row.append({"role": "tool", "content": "3", "tool_call_id": "1"})
    found = run(build(folder, "nll", "perplexity"), batch([row], [TOOLS]))
    # One token a byte, and the one that ends the turn.
    size = found["nll"]["tokens"][0] - 1
    assert size > len("Ä".encode()) + 20
    bits = found["nll"]["sum"][0] / log(2) / size
    assert found["perplexity"]["bits_per_byte"][0] == pytest.approx(bits)


def test_turns_marked_train_false_do_not_count(
    folder: Path, batch: Callable[..., pa.RecordBatch]
) -> None:
    row = turns("one", "first answer", "two", "second")
    row[1]["train"] = False
    assert run(build(folder, "nll"), batch([row]))["nll"]["tokens"].tolist() == [len("second") + 1]
    row[3]["train"] = False
    found = run(build(folder, "nll"), batch([row]))["nll"]
    assert found["reason"].tolist() == ["answer_not_trained"]


def test_undefined_is_null_with_a_reason(
    folder: Path, batch: Callable[..., pa.RecordBatch]
) -> None:
    rows = [
        turns("q"),
        turns("q", None)[:-1],
        turns("q" * 200, "a"),
        turns("q", "fine"),
        turns("q", "a", "q", "  "),
    ]
    found = run(build(folder, *PASSES), batch(rows, [None, TOOLS, *[None] * 3]))
    reasons = [
        "no_text_answer",
        "no_text_answer",
        "no_answer_token_left",
        None,
        "empty_answer",
    ]
    for name, columns in found.items():
        assert columns["reason"].tolist() == reasons
        assert columns["tokens"].tolist() == [0, 0, 0, 5, 0]
        np.testing.assert_equal(columns["cut"], [np.nan, np.nan, 1, 0, np.nan])
        for field, values in columns.items():
            if field not in ("reason", "tokens", "cut"):
                flat = values.reshape(len(rows), -1)
                for undefined in np.isnan(flat).T.tolist():
                    assert undefined == [r is not None for r in reasons], (name, field)
    compat = run(build(folder, "ifd", options={"compat": True}), batch(rows[2:4]))["ifd"]
    assert compat["ppl_ratio"][0] == 0.0
    assert compat["reason"].tolist() == reasons[2:4]


def test_a_cut_answer_is_scored_as_far_as_it_goes(
    folder: Path, batch: Callable[..., pa.RecordBatch]
) -> None:
    rows = [turns("q" * 10, "a" * 40)]
    short = run(build(folder, "nll", "perplexity", "ifd", max_length=32), batch(rows))
    # <|user|>, ten letters, <|end|>, <|assistant|> and 19 letters of the answer.
    assert short["nll"]["tokens"].tolist() == [19]
    bits = short["nll"]["sum"][0] / log(2) / 19
    assert short["perplexity"]["bits_per_byte"][0] == pytest.approx(bits)
    # 22 of the 41 tokens of the answer are lost.
    assert short["ifd"]["cut"].tolist() == [22 / 41]
    fits = run(build(folder, "nll", "ifd"), batch([turns("q" * 10, "a" * 19)]))
    assert fits["nll"]["tokens"].tolist() == [20]
    assert fits["nll"]["cut"].tolist() == [0]


def test_one_forward_per_rendering_for_all_scorers(
    folder: Path, batch: Callable[..., pa.RecordBatch], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[forward.Engine] = []
    start = forward.Engine.__init__

    def counted(self: forward.Engine, *args: Any, **given: Any) -> None:
        start(self, *args, **given)
        made.append(self)

    monkeypatch.setattr(forward.Engine, "__init__", counted)
    run(build(folder, "nll", "perplexity"), batch(SINGLE))
    assert [e.passes_run for e in made] == [len(SINGLE)]
    run(build(folder, "nll", "perplexity", "entropy", "el2n", "hidden"), batch(SINGLE))
    run(build(folder, *PASSES), batch(SINGLE))
    assert [e.passes_run for e in made] == [len(SINGLE), len(SINGLE), 2 * len(SINGLE)]


def test_together_they_have_the_values_each_has_alone(
    folder: Path, batch: Callable[..., pa.RecordBatch]
) -> None:
    rows = batch(SINGLE + MULTI)
    together = run(build(folder, *PASSES), rows)
    for name in PASSES:
        (alone,) = run(build(folder, name), rows).values()
        assert tuple(alone) == tuple(together[name])
        for field, values in alone.items():
            if field != "reason":
                np.testing.assert_allclose(values, together[name][field], rtol=1e-6, atol=2e-6)


def test_scores_and_states_equal_the_definition(
    folder: Path, oracle: Oracle, batch: Callable[..., pa.RecordBatch]
) -> None:
    rows = SINGLE + MULTI
    found = run(build(folder, "entropy", "el2n", "hidden", "token_scores"), batch(rows))
    last = run(build(folder, "hidden", options={"pool": "last"}), batch(rows))["hidden"]["vector"]
    for i, messages in enumerate(rows):
        ids, targets = oracle.ids(messages)
        with torch.no_grad():
            out = oracle.model(input_ids=torch.tensor([ids]), output_hidden_states=True)
        p = torch.softmax(out.logits[0].double(), -1)[[t - 1 for t in targets]].numpy()
        error = p - np.eye(p.shape[1])[[ids[t] for t in targets]]
        el2n, entropy = np.linalg.norm(error, axis=1), -(p * np.log(p)).sum(axis=1)
        cond, alone = oracle.chat(messages)
        for name, field, value in [
            ("el2n", "mean", el2n.mean()),
            ("el2n", "max", el2n.max()),
            ("entropy", "mean", entropy.mean()),
            ("entropy", "max", entropy.max()),
            ("token_scores", "el2n", el2n.mean()),
            ("token_scores", "entropy", entropy.mean()),
            ("token_scores", "log_ppl", -np.mean(cond)),
            ("token_scores", "grounding", exp(np.mean(cond) - np.mean(alone))),
        ]:
            assert found[name][field][i] == pytest.approx(value, rel=2e-5, abs=1e-5), field
        states = out.hidden_states[-1][0].numpy()
        np.testing.assert_allclose(found["hidden"]["vector"][i], states.mean(axis=0), atol=1e-5)
        np.testing.assert_allclose(last[i], states[-1], atol=1e-5)


def test_groups_are_by_model_and_rendering(folder: Path, tiny_lm: Callable[..., Path]) -> None:
    other = tiny_lm(seed=1)
    scorers = {
        **build(folder, "nll", "ifd"),
        "length": registry.build("length", model=None, options={}, device="cpu"),
        "second": build(other, "nll")["nll"],
        "plain": build(folder, "nll", prompt_style="plain")["nll"],
        "ppl": build(folder, "perplexity")["perplexity"],
    }
    names = [g.names for g in registry.group(scorers)]
    assert names == [("nll", "ifd", "ppl"), ("length",), ("second",), ("plain",)]


def test_values_do_not_depend_on_the_batch(
    folder: Path, batch: Callable[..., pa.RecordBatch]
) -> None:
    rng = np.random.default_rng(0)
    rows = [
        turns("q" * int(rng.integers(1, 60)), "".join(rng.choice(list("abc "), 20)) + ".")
        for _ in range(30)
    ]
    (group,) = registry.group(build(folder, *PASSES))
    first = group.score(batch(rows), advance=lambda n: None)
    again = group.score(batch(rows), advance=lambda n: None)
    order = rng.permutation(len(rows))
    mixed = group.score(batch([rows[i] for i in order]), advance=lambda n: None)
    for name, columns in first.items():
        for field, values in columns.items():
            if field == "reason":
                continue
            np.testing.assert_array_equal(again[name][field], values)
            np.testing.assert_allclose(mixed[name][field], values[order], rtol=1e-5, atol=1e-5)
            one = [
                group.score(batch([row]), advance=lambda n: None)[name][field][0]
                for row in rows[:5]
            ]
            np.testing.assert_allclose(one, values[:5], rtol=1e-5, atol=1e-5)


def test_progress_counts_every_row_once(folder: Path, batch: Callable[..., pa.RecordBatch]) -> None:
    told: list[int] = []
    rows = [turns("q"), *SINGLE, *MULTI]
    (group,) = registry.group(build(folder, "ifd"))
    group.score(batch(rows), advance=told.append)
    assert sum(told) == len(rows)


def test_bos_stands_before_the_answer_alone(
    tiny_lm: Callable[..., Path], batch: Callable[..., pa.RecordBatch]
) -> None:
    folder = tiny_lm(bos=True)
    oracle = Oracle(folder)
    found = run(build(folder, "ifd"), batch([turns("q", "answer")]))["ifd"]
    expected = -oracle.logprobs([1, *oracle.encode("answer"), 0]).mean()
    assert found["nll_alone"][0] == pytest.approx(expected, abs=1e-5)


def test_noise_is_said_loudly(folder: Path, batch: Callable[..., pa.RecordBatch]) -> None:
    (group,) = registry.group(build(folder, "nll", "ifd"))
    assert group.warnings == []
    mean = group.score(batch(SINGLE), advance=lambda n: None)["nll"]
    assert mean["sum"].sum() / mean["tokens"].sum() > log(262)
    (warning,) = group.warnings
    assert "NOISE" in warning
    assert "nll, ifd" in warning


@pytest.mark.model
def test_the_real_model_knows_the_kind_of_text_it_was_trained_on(
    base_model: Path, real_data: Path, batch: Callable[..., pa.RecordBatch]
) -> None:
    import pyarrow.parquet as pq

    table = pq.read_table(real_data / "alpaca_eval_graded.parquet").slice(0, 2000)
    rows = [
        turns(r["instruction"], r["output"])
        for r in table.to_pylist()
        if 300 < len(r["output"]) < 900 and len(r["instruction"]) < 200
    ][::40]
    (group,) = registry.group(build(base_model, "nll", "ifd", prompt_style="plain"))
    found = group.score(batch(rows), advance=lambda n: None)
    assert group.warnings == []
    assert len(rows) > 5
    assert found["nll"]["sum"].sum() / found["nll"]["tokens"].sum() < 0.6 * log(8192)
    # The instruction helps.
    assert np.nanmedian(found["ifd"]["log_ratio"]) < 0
