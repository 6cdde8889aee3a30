"""How much of a model each method trains: counted on a small model of the usual shape."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from tamis.language.load import quiet
from tamis.trainer import methods
from tamis.trainer.loss import terms_forward
from tamis.trainer.methods import Context

SHAPE: dict[str, Any] = {
    "vocab_size": 2048,
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 256,
}
_STEPS = 10
_ROWS = 4


def trainable_percent(name: str) -> float:
    """Per cent of the parameters that a step of the method trains, with its default options.

    Counted on a Llama of `SHAPE` with random weights; larger models have a smaller share of an
    adapter of the same rank. Takes well below a second.
    """
    import torch

    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(0)
        lm = _model()
        method = methods.build(name, methods.get(name).example)
        trained = method.prepare(lm, Context(_STEPS, 0, 1e-3, 0, "cpu", _batches, 32))
        return 100 * method.trainable(trained) / _size()


def _model() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    lm = LlamaForCausalLM(LlamaConfig(**SHAPE)).requires_grad_(False)
    lm.forward = terms_forward(lm, SHAPE["vocab_size"])
    return lm


@cache
def _size() -> int:
    return sum(parameter.numel() for parameter in _model().parameters())


def _batches(rows: int, at_once: int) -> Iterator[dict[str, Any]]:
    import torch

    for begin in range(0, min(rows, _ROWS), at_once):
        ids = torch.randint(SHAPE["vocab_size"], (min(at_once, _ROWS - begin), 32))
        labels = ids.clone()
        labels[:, : ids.shape[1] // 2] = -100  # a prompt as long as its answer
        yield {"input_ids": ids, "labels": labels, "loss_weights": torch.ones(ids.shape)}
