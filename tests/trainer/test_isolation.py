"""Packed rows: as apart as rows alone, or refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tamis.errors import RecipeError
from tamis.language.load import load_model
from tamis.recipe import Model, Tune
from tamis.trainer.data import prepare
from tamis.trainer.isolation import check
from tamis.trainer.pack import stacked
from tamis.trainer.tune import tune

WIDTH = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
OPT = {"ffn_dim": 64, "max_position_embeddings": 64, "word_embed_proj_dim": 32}
MODELS: dict[str, tuple[str, dict[str, Any], bool]] = {
    "gpt2": ("GPT2Config", {"vocab_size": 97, "n_embd": 32, "n_layer": 2, "n_head": 4}, True),
    "mistral": ("MistralConfig", {**WIDTH, "intermediate_size": 64, "sliding_window": 4}, True),
    "opt": ("OPTConfig", {**WIDTH, **OPT}, False),
    "bloom": ("BloomConfig", {"vocab_size": 97, "hidden_size": 32, "n_layer": 2}, False),
    "mamba": ("MambaConfig", {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2}, False),
}


def made(name: str, **own: Any) -> Any:
    """As transformers draws its weights: small, so that what is seen shows least."""
    import torch
    import transformers

    kind, options, _ = MODELS[name]
    extra = {"num_key_value_heads": 4} if name == "mistral" else {}
    torch.manual_seed(0)
    config = getattr(transformers, kind)(
        **{**options, **extra, **own}, pad_token_id=0, eos_token_id=1
    )
    return transformers.AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_that_reads_on_is_refused(name: str) -> None:
    lm = made(name)
    check(lm, 97, "none")
    for packing in ("best_fit", "dynamic"):
        if MODELS[name][2]:
            check(lm, 97, packing)
        else:
            with pytest.raises(RecipeError, match="see each other: set packing: none"):
                check(lm, 97, packing)


def test_the_trainer_asks(
    tokenizer: Any, table: Any, sums: Any, progress: Any, tmp_path: Path
) -> None:
    """And pads the rows of such a model, which are then as they are alone."""
    lm = made("opt", vocab_size=len(tokenizer), max_position_embeddings=256)
    lm.save_pretrained(tmp_path / "lm")
    tokenizer.save_pretrained(tmp_path / "lm")
    model = Model(path=str(tmp_path / "lm"), prompt_style="chat")

    def run(packing: str) -> Any:
        block = {"options": {"rank": 2}, "packing": packing, "max_steps": 1}
        given = {"seed": 3, "device": "cpu", "folder": tmp_path / packing}
        (tmp_path / packing).mkdir()
        return tune(
            table(sums[:4]),
            model,
            Tune.model_validate(block),
            **given,
            say=lambda line: None,
            progress=progress(),
        )

    with pytest.raises(RecipeError, match="packing best_fit: OPTForCausalLM"):
        run("best_fit")
    assert run("none")["steps"] == 1


def test_packed_rows_have_the_logits_of_rows_alone(
    tiny: Model, tokenizer: Any, table: Callable[..., pa.Table], sums: Any
) -> None:
    """To 1e-5 of their range, in stacked bins of several rows, padding behind the shorter one."""
    import torch

    lm = load_model(tiny, "cpu")
    examples = prepare(table(sums), tokenizer, prompt_style="chat", max_length=256)
    batch = stacked(examples, [[0, 4, 9], [2, 7]])
    with torch.no_grad():
        packed = lm(
            input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False
        ).logits
        for row, (line, start, end) in zip([0, 4, 9, 2, 7], batch["spans"].tolist(), strict=True):
            ids = torch.from_numpy(examples.row(row)[0].astype(np.int64))
            alone = lm(input_ids=ids[None]).logits[0]
            gap = (packed[line, start:end] - alone).abs().max()
            assert gap <= 1e-5 * (alone.max() - alone.min())
