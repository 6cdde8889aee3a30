"""EVOL: turns, prompts and digits, against a plain forward pass of the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from tamis.errors import RecipeError, TamisError
from tamis.recipe import Model
from tamis.scoring import registry
from tamis.scoring.digit_prompt import DigitPrompt
from tamis.scoring.evol import Evol, pairs

SHORT = {"complexity": "Q:{instruction}\nC: ", "quality": "Q:{instruction}\nR:{response}\nS: "}


@pytest.fixture(scope="module")
def folder(tiny_lm: Callable[..., Path]) -> Path:
    return tiny_lm(bos=True)


def build(folder: Path, **options: Any) -> Evol:
    model = Model(path=str(folder), prompt_style="plain")
    return registry.build("evol", model=model, options={**SHORT, **options}, device="cpu")


def talk(*turns: tuple[str, str]) -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content in turns]


def test_turns_are_questions_with_the_answers_up_to_the_next() -> None:
    rows = talk(
        ("system", "be kind"),
        ("assistant", "hello"),
        ("user", "a"),
        ("user", "b"),
        ("assistant", "c"),
        ("tool", "d"),
        ("assistant", "e"),
        ("user", "f"),
        ("assistant", ""),
        ("user", "g"),
    )
    assert pairs(rows) == [("a\nb", "c\ne"), ("f", ""), ("g", "")]
    assert pairs(talk(("system", "x"), ("assistant", "y"))) == []


def by_hand(folder: Path, prompt: str) -> tuple[float, float]:
    """Expected digit and probability of all digits, by transformers alone."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        logits = model(ids).logits[0, -1].double()
    digits = [tokenizer.encode(str(k), add_special_tokens=False)[0] for k in range(1, 7)]
    p = torch.softmax(logits, dim=0)[digits].numpy()
    return float(p @ np.arange(1, 7) / p.sum()), float(p.sum())


def test_scores_are_those_of_a_plain_forward_pass(folder: Path, batch: Any) -> None:
    rows = [
        talk(
            ("user", "what {response}?"), ("assistant", "two"), ("user", "and"), ("assistant", "x")
        ),
        talk(("system", "s"), ("user", "why")),
        talk(("assistant", "nobody asked")),
    ]
    told: list[int] = []
    found = build(folder).score(batch(rows), advance=told.append)
    assert sum(told) == 3
    c1, m1 = by_hand(folder, "Q:what {response}?\nC: ")
    q1, m2 = by_hand(folder, "Q:what {response}?\nR:two\nS: ")
    c2, m3 = by_hand(folder, "Q:and\nC: ")
    q2, m4 = by_hand(folder, "Q:and\nR:x\nS: ")
    assert found["complexity"][0] == pytest.approx([c1, c2], abs=1e-5)
    assert found["quality"][0] == pytest.approx([q1, q2], abs=1e-5)
    assert found["total"][0] == pytest.approx(c1 * q1 + c2 * q2, abs=1e-4)
    assert found["mean"][0] == pytest.approx((c1 * q1 + c2 * q2) / 2, abs=1e-4)
    assert found["mass"][0] == pytest.approx(min(m1, m2, m3, m4), rel=1e-3)
    assert found["quality"][1] == pytest.approx([by_hand(folder, "Q:why\nR:\nS: ")[0]], abs=1e-5)
    assert found["reason"].tolist() == [None, None, "no_instruction"]
    assert np.isnan(found["quality"][2]).tolist() == [True] and np.isnan(found["total"][2])


def test_the_batch_does_not_matter_and_one_axis_is_summed_alone(folder: Path, batch: Any) -> None:
    rows = [talk(("user", "q" * k), ("assistant", "a" * (7 * k % 11))) for k in range(1, 30)]
    scorer = build(folder, axes=["quality"])
    whole = scorer.score(batch(rows), advance=lambda n: None)
    for i in (0, 11, 28):
        alone = scorer.score(batch([rows[i]]), advance=lambda n: None)
        assert alone["total"][0] == pytest.approx(whole["total"][i], abs=1e-5)
        assert whole["quality"][i] == pytest.approx([whole["total"][i]])
        assert np.isnan(whole["complexity"][i]).tolist() == [True]


def test_long_texts_lose_their_middle_and_are_flagged(folder: Path, batch: Any) -> None:
    model = Model(path=str(folder), prompt_style="plain", max_length=40)
    options = {**SHORT, "axes": ["quality"]}
    scorer = registry.build("evol", model=model, options=options, device="cpu")
    rows = [talk(("user", "ab" + "x" * 90 + "yz"), ("assistant", "short"))]
    found = scorer.score(batch(rows), advance=lambda n: None)
    assert found["reason"].tolist() == [None]
    assert found["cut"][0] == pytest.approx(1 - (26 + 5) / (94 + 5))
    # 9 bytes of the template and 5 of the response leave 26 of the instruction, 13 from each end.
    cut = "ab" + "x" * 22 + "yz"
    assert found["quality"][0] == pytest.approx([by_hand(folder, f"Q:{cut}\nR:short\nS: ")[0]])
    whole = registry.build(
        "evol",
        model=model,
        options={**options, "quality": "long " * 9 + "{instruction}"},
        device="cpu",
    )
    none = whole.score(batch(rows), advance=lambda n: None)
    assert none["reason"].tolist() == ["template_does_not_fit"] and np.isnan(none["total"]).all()


class Joining:
    """A tokenizer that writes a space and a letter behind it as one token, as many do."""

    def encode(self, text: str, **_: Any) -> list[str]:
        pieces: list[str] = []
        for letter in text:
            joined = pieces and pieces[-1] == " "
            pieces = [*pieces[:-1], " " + letter] if joined else [*pieces, letter]
        return pieces


def test_digits_joined_to_the_space_before_them() -> None:
    prompt = DigitPrompt(Joining(), "{instruction}: ", 100)
    assert prompt.digits == [f" {k}" for k in range(1, 7)]
    assert prompt.ids("hi", "") == (["h", "i", ":"], False)


def test_tokenizers_that_split_or_share_digits_are_refused() -> None:
    class Shared:
        def encode(self, text: str, **_: Any) -> list[str]:
            return ["#" if c.isdigit() else c for c in text]

    with pytest.raises(TamisError, match="one token of its own"):
        _ = DigitPrompt(Shared(), "{instruction}: ", 100).digits


def test_a_model_that_says_no_digits_is_told(folder: Path, batch: Any, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    digits = [tokenizer.encode(str(k), add_special_tokens=False)[0] for k in range(1, 7)]
    with torch.no_grad():
        hidden = model.get_output_embeddings().weight
        hidden.zero_()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    rows = batch([talk(("user", "q"), ("assistant", "a"))])
    flat = build(tmp_path)
    found = flat.score(rows, advance=lambda n: None)
    # Uniform over the vocabulary: each digit alike.
    assert found["quality"][0] == pytest.approx([3.5]) and flat.warnings == []
    assert found["mass"][0] == pytest.approx(6 / len(tokenizer))
    assert len(digits) == 6
    scorer = build(folder)
    scorer._masses.extend([1e-6] * 5)
    assert "THESE SCORES ARE NOISE" in scorer.warnings[0]


def test_wrong_templates_are_told(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="must contain"):
        build(folder, quality="how good? ")
    with pytest.raises(RecipeError, match="axes must name"):
        build(folder, axes=[])
    import shutil

    shutil.copytree(folder, tmp_path / "m")
    card = {"quality": SHORT["quality"]}
    (tmp_path / "m" / "evol.json").write_bytes(orjson.dumps(card))
    build(tmp_path / "m", axes=["quality"])
    with pytest.raises(RecipeError, match="trained for quality"):
        build(tmp_path / "m")
    with pytest.raises(RecipeError, match="the one given is"):
        build(tmp_path / "m", axes=["quality"], quality="{instruction} ")


def test_a_server_that_tells_all_digits_is_as_good(serve: Callable[..., str], batch: Any) -> None:
    import math

    import httpx

    weights = [1, 2, 3, 4, 5, 12]
    top = {str(k): math.log(w / 30) for k, w in enumerate(weights, 1)}
    # One of the digits in two spellings, and a token that is none.
    top |= {"6": math.log(10 / 30), " 6": math.log(2 / 30), "the": math.log(3 / 30)}
    url = serve(reply=["6"], top=top, faults=[400], forever=True, mark="tedious")
    endpoint = {"url": url, "model": "m"}
    model = Model.model_validate({"endpoint": endpoint, "prompt_style": "plain"})
    options = {**SHORT, "axes": ["quality"]}
    scorer = registry.build("evol", model=model, options=options, device="cpu")
    rows = [talk(("user", "q"), ("assistant", "a")), talk(("user", "tedious")), talk()]
    told: list[int] = []
    found = scorer.score(batch(rows), advance=told.append)
    expected = sum(k * w for k, w in enumerate(weights, 1)) / sum(weights)
    assert found["quality"][0] == pytest.approx([expected])
    assert found["mass"][0] == pytest.approx(27 / 30) and sum(told) == 3
    assert found["reason"].tolist() == [None, "refused_by_endpoint", "no_instruction"]
    bodies = [r["body"] for r in httpx.get(url).json()["requests"]]
    assert {b["prompt"] for b in bodies} == {"Q:q\nR:a\nS: ", "Q:tedious\nR:\nS: "}
    assert all(b["max_tokens"] == 1 and b["logprobs"] == 20 for b in bodies)
    del top["3"]
    endpoint["url"] = serve(reply=["6"], top=top)
    model = Model.model_validate({"endpoint": endpoint, "prompt_style": "plain"})
    scorer = registry.build("evol", model=model, options=options, device="cpu")
    found = scorer.score(batch(rows[:1]), advance=told.append)
    assert np.isnan(found["total"]).all() and found["reason"].tolist() == ["no_digit"]
    chat = model.model_copy(update={"prompt_style": "chat"})
    with pytest.raises(RecipeError, match="prompt_style of the endpoint to plain"):
        registry.build("evol", model=chat, options=options, device="cpu")
