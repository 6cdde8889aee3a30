"""Tokens as the trainer will count them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from tamis.recipe import Model
from tamis.scoring import registry
from tamis.scoring.tokens import Tokens


def test_total_supervised_cut(
    tiny_lm: Callable[..., Path], batch: Callable[..., pa.RecordBatch], pair: Callable
) -> None:
    model = Model(path=str(tiny_lm()), prompt_style="chat")
    rows = [pair("abc", "de"), pair("a" * 200, "b"), pair("a" * 100, "b" * 100), pair("a", "")]
    scorer = registry.build("tokens", model=model, options={}, device="cpu")
    found = scorer.score(batch(rows), advance=lambda n: None)
    # <|user|> abc <|end|> <|assistant|> de <|end|>
    np.testing.assert_array_equal(found["total"], [9, 128, 128, np.nan])
    np.testing.assert_array_equal(found["supervised"], [3, 0, 25, np.nan])
    # <|user|> and <|end|> of 200, 100 and 100 letters, <|assistant|> and <|end|> of the answer.
    np.testing.assert_allclose(found["cut"], [0, 1 - 128 / 205, 1 - 128 / 204, np.nan])
    assert found["reason"].tolist() == [None, None, None, "empty_answer"]
    assert tuple(found) == scorer.fields


def test_the_cut_off_is_an_option_and_part_of_the_identity(
    tiny_lm: Callable[..., Path], batch: Callable[..., pa.RecordBatch], pair: Callable
) -> None:
    model = Model(path=str(tiny_lm()), prompt_style="chat", max_length=100)

    def build(limit: int | None) -> Tokens:
        options = {"max_length": limit}
        return registry.build("tokens", model=model, options=options, device="cpu")

    short, default = build(8), build(None)
    assert short.score(batch([pair("abc", "de")]), advance=lambda n: None)["total"].tolist() == [8]
    assert short.identity() != default.identity()
    assert default.identity() == build(100).identity()
    other = Model(path=model.path, prompt_style="plain", max_length=100)
    plain = registry.build("tokens", model=other, options={}, device="cpu")
    assert plain.identity() != default.identity()


def test_weights_do_not_matter(tiny_lm: Callable[..., Path]) -> None:
    identities = [
        registry.build(
            "tokens",
            model=Model(path=str(tiny_lm(seed=seed)), prompt_style="chat"),
            options={},
            device="cpu",
        ).identity()
        for seed in (0, 1)
    ]
    assert identities[0] == identities[1]
