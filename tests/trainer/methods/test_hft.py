"""HFT and frozen lower layers: which parts are trained."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tamis.errors import RecipeError
from tamis.trainer import methods
from tamis.trainer.methods import Context


@pytest.fixture
def even() -> Any:
    """A model of six layers whose query, key and value matrices are alike."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=6,
        num_attention_heads=2,
    )
    return LlamaForCausalLM(config).requires_grad_(False)


def context(seed: int = 3) -> Context:
    return Context(8, 0, 1e-3, seed, "cpu", lambda rows, at_once: iter([]), 0)


def test_a_share_of_one_is_full_fine_tuning(tuned: Any) -> None:
    one, _ = tuned("hft", {"share": 1.0}, "hft")
    other, _ = tuned("full", {}, "full")
    assert all((one[name] == other[name]).all() for name in other)


def test_half_of_every_kind_of_every_layer(even: Any) -> None:
    method: Any = methods.build("hft")
    method.prepare(even, context())
    facts = method.facts()
    assert facts["share_of_layers"] == 0.5
    assert facts["trained"] == [n for n, p in even.named_parameters() if p.requires_grad]
    kinds = ("self_attn", "mlp", "layernorm")
    counts = {
        kind: [sum(f"layers.{i}." in n and kind in n for n in facts["trained"]) for i in range(6)]
        for kind in kinds
    }
    assert counts["self_attn"] == [2] * 6 and counts["layernorm"] == [1] * 6
    assert Counter(counts["mlp"]) == {1: 3, 2: 3}
    outside = {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}
    assert outside <= set(facts["trained"])


def test_the_draw_follows_the_seed_and_embeddings_may_stay(even: Any) -> None:
    found = []
    for seed, options in ((3, {}), (3, {}), (4, {}), (3, {"freeze_embeddings": True})):
        method: Any = methods.build("hft", options)
        method.prepare(even, context(seed))
        found.append(set(method.facts()["trained"]))
    assert found[0] == found[1] != found[2]
    gone = {n for n in found[0] if "layers." not in n}
    assert found[3] == found[0] - gone and gone


def test_each_epoch_may_train_another_half(even: Any) -> None:
    """All parts are in the optimizer's reach, half of them have gradients, the rest no moments."""
    import torch

    method: Any = methods.build("hft", {"redraw": "epoch"})
    given = context()
    epochs = Context(8, 0, 1e-3, 3, "cpu", given.batches, 0, lambda step: step // 2)
    method.prepare(even, epochs)
    assert all(p.requires_grad for p in even.parameters())
    assert method.rests and not methods.build("hft").rests
    trained, stage = method.trainable(even), methods.build("hft")
    optimizer = torch.optim.AdamW(even.parameters())
    seen = []
    for step in range(6):
        method.step_begin(step, optimizer)
        now = {n for n, p in even.named_parameters() if p.requires_grad}
        seen.append(frozenset(now))
        ids = torch.arange(6)[None]
        before = {n: p.detach().clone() for n, p in even.named_parameters()}
        even(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        moved = {n for n, p in even.named_parameters() if not torch.equal(p, before[n])}
        assert moved == now
        inside = {n for n, p in even.named_parameters() if p in optimizer.state}
        assert inside == now
    assert seen[0] == seen[1] and seen[2] == seen[3] and len({*seen}) == 3
    size = sum(p.numel() for n, p in even.named_parameters() if n in seen[0])
    assert trained == size
    assert method.facts()["epochs"] == 4 and method.facts()["share_of_layers"] == 0.5
    even.requires_grad_(False)
    stage.prepare(even, given)
    assert {*stage.facts()["trained"]} == seen[0]  # the first epoch is the draw of a stage


def test_lower_layers_stay(even: Any) -> None:
    methods.build("freeze_bottom", {"layers": 4}).prepare(even, context())
    trained = {n for n, p in even.named_parameters() if p.requires_grad}
    upper = {n for n, _ in even.named_parameters() if "layers.4." in n or "layers.5." in n}
    assert trained == upper | {"model.norm.weight", "lm_head.weight"}
    with pytest.raises(RecipeError, match="layers=6 leaves none of the model's 6"):
        methods.build("freeze_bottom", {"layers": 6}).prepare(even, context())


@pytest.mark.parametrize("share", [0.0, 1.5])
def test_a_share_is_a_share(share: float) -> None:
    with pytest.raises(RecipeError, match="share="):
        methods.build("hft", {"share": share})
