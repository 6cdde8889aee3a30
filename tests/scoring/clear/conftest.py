"""A tiny model that reads long prompts, and a tiny classifier for inference."""

import json

import pytest

from tamis.recipe import Model


@pytest.fixture(scope="session")
def long_lm(tiny_lm):
    """The random model of bytes with 2,048 positions (rotary, so no weight depends on them)."""

    def make(style="plain", **given):
        folder = tiny_lm(**given)
        config = json.loads((folder / "config.json").read_text())
        config["max_position_embeddings"] = 2048
        (folder / "config.json").write_text(json.dumps(config))
        return Model(path=str(folder), prompt_style=style)

    return make


@pytest.fixture(scope="session")
def nli(tmp_path_factory, tiny_lm):
    """The folder of a random classifier of pairs whose classes come in an order of their own."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    folder = tmp_path_factory.mktemp("nli")
    tokenizer = AutoTokenizer.from_pretrained(tiny_lm(template=False))
    tokenizer.pad_token = "<|end|>"
    tokenizer.model_max_length = 64
    torch.manual_seed(5)
    labels = ["entailment", "neutral", "contradiction"]
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        initializer_range=0.8,
        id2label=dict(enumerate(labels)),
        label2id={name: i for i, name in enumerate(labels)},
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
