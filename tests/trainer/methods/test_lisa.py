"""LISA: what rests, what it forgets, and that all layers at once are full fine-tuning."""

from __future__ import annotations

from typing import Any

import pytest

from tamis.errors import RecipeError
from tamis.trainer import methods


def test_all_layers_at_once_are_full_fine_tuning(tuned: Any) -> None:
    one, _ = tuned("lisa", {"layers": 2, "interval": 1}, "lisa", weight_decay=0.1)
    other, _ = tuned("full", {}, "full", weight_decay=0.1)
    assert one.keys() == other.keys()
    assert all((one[name] == other[name]).all() for name in one)


def test_what_is_not_drawn_stays_to_the_bit(tuned: Any, weights_of: Any, tiny: Any) -> None:
    from pathlib import Path

    before = weights_of(Path(tiny.path))
    after, report = tuned("lisa", {"layers": 1, "interval": 100}, weight_decay=0.1)
    steps = report["method_facts"]["steps_of_layer"]
    assert sorted(steps) == [0, 3]
    rested = f"model.layers.{steps.index(0)}."
    for name, value in before.items():
        assert bool((value == after[name]).all()) == name.startswith(rested), name
    trained = sum(v.numel() for n, v in before.items() if not n.startswith(rested))
    assert report["trainable_parameters"] == trained


def test_a_resting_layer_loses_its_moments(by_hand: Any) -> None:
    import torch

    for keep in (False, True):
        run = by_hand("lisa", layers=1, interval=1, keep_moments=keep)
        parameters = list(run.lm.parameters())
        assert all(p.requires_grad for p in parameters)  # or the optimizer would never take them
        optimizer = torch.optim.AdamW(parameters)
        drawn = [run.method.drawn(step)[0] for step in range(20)]
        switch = next(step for step in range(1, 20) if drawn[step] != drawn[step - 1])
        for step in range(switch + 1):
            run.step(step, optimizer)
        rested = run.method.blocks[drawn[switch - 1]]
        assert all((p in optimizer.state) == keep for p in rested.parameters())
        assert all(not p.requires_grad and p.grad is None for p in rested.parameters())
        assert run.lm.get_input_embeddings().weight in optimizer.state
        assert all(p in optimizer.state for p in run.method.blocks[drawn[switch]].parameters())


def test_layers_are_drawn_alike_everywhere_and_all_equally_often() -> None:
    method: Any = methods.build("lisa", {"layers": 2, "interval": 5})
    method.blocks, method.seed = [None] * 8, 7
    drawn = [tuple(method.drawn(step)) for step in range(2000)]
    assert drawn == [tuple(method.drawn(step)) for step in range(2000)]
    assert all(len(set(drawn[i : i + 5])) == 1 for i in range(0, 2000, 5))
    assert all(len(set(found)) == 2 for found in drawn)
    often = [sum(i in found for found in drawn[::5]) for i in range(8)]
    assert min(often) > 60 and max(often) < 140  # 100 of 400 draws each, deviation 9
    method.seed = 8
    assert drawn != [tuple(method.drawn(step)) for step in range(2000)]


def test_what_cannot_be_is_refused(by_hand: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RecipeError, match="layers=3, but the model has 2"):
        by_hand("lisa", layers=3)
    with pytest.raises(RecipeError, match="at least 1"):
        methods.build("lisa", {"interval": 0})
    for variable, kind in (("ACCELERATE_USE_FSDP", "FSDP"), ("ACCELERATE_USE_DEEPSPEED", "ZeRO")):
        with monkeypatch.context() as patch:
            patch.setenv(variable, "true")
            for name in ("lisa", "lift", "neuroada", "s2ft", "mezo"):
                with pytest.raises(RecipeError, match=kind):
                    methods.build(name)
