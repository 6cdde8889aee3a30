"""S2FT: slices against whole matrices, heads and channels as they are drawn."""

from __future__ import annotations

from typing import Any

import pytest

from tamis.errors import RecipeError
from tamis.trainer import methods


def test_all_of_down_proj_is_tuning_down_proj(by_hand: Any) -> None:
    import torch

    run, other = by_hand("s2ft", down_proj=1.0), by_hand("full")
    dense = {n: other.lm.get_submodule(n).weight for n in run.method.slices}
    assert sorted(dense) == [f"model.layers.{i}.mlp.down_proj" for i in range(2)]
    sliced = [p for p in run.lm.parameters() if p.requires_grad]
    ours, theirs = (torch.optim.AdamW(p, lr=1e-2) for p in (sliced, list(dense.values())))
    for group in (*ours.param_groups, *theirs.param_groups):
        group["weight_decay"] = 0.0
    for step in range(3):
        run.step(step, ours)
        other.loss().backward()
        theirs.step()
        other.lm.zero_grad()
    for name, weight in dense.items():
        layer = run.lm.get_submodule(name)
        torch.testing.assert_close(layer.weight + layer.change, weight.data, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["down_proj", "up_proj", "o_proj", "v_proj"])
def test_a_slice_is_the_change_of_its_rows_or_columns(by_hand: Any, name: str) -> None:
    import torch

    run = by_hand("s2ft", **{"down_proj": 0.0, name: 0.5})
    wanted = {}
    for full, part in run.method.slices.items():
        torch.nn.init.normal_(part.layer.change, std=0.3)
        moved = part.layer.weight.detach().clone()
        change = part.layer.change.detach()
        if part.columns:
            moved[:, part.index] += change
        else:
            moved[part.index] += change
        wanted[full] = moved
        b, a = part.factors()
        torch.testing.assert_close(part.layer.weight + b @ a, moved)
    found = run.loss()
    other = by_hand("full")
    for full, weight in wanted.items():
        other.lm.get_submodule(full).weight.data = weight
    torch.testing.assert_close(found, other.loss(), atol=1e-6, rtol=1e-6)


def test_heads_are_drawn_whole_and_all_layers_share_the_draw(by_hand: Any) -> None:
    # Four heads of eight, two key-value heads, 64 channels, in two layers.
    run = by_hand("s2ft", down_proj=0.1, o_proj=0.4, v_proj=0.5)
    counts = run.method.facts()["trained"]
    assert sum(n for name, n in counts.items() if "down" in name) == int(0.1 * 128)
    assert sum(n for name, n in counts.items() if "o_proj" in name) == int(0.4 * 8) * 8
    assert sum(n for name, n in counts.items() if "v_proj" in name) == int(0.5 * 4) * 8
    for name, part in run.method.slices.items():
        if "down" not in name:
            heads = part.index.reshape(-1, 8)
            assert (heads[:, 0] % 8 == 0).all() and (heads == heads[:, :1] + heads[0] % 8).all()
    again = by_hand("s2ft", down_proj=0.1, o_proj=0.4, v_proj=0.5)
    for name, part in run.method.slices.items():
        assert (part.index == again.method.slices[name].index).all()


def test_only_the_chosen_inputs_are_kept_for_the_backward_pass(by_hand: Any) -> None:
    import torch

    run = by_hand("s2ft", down_proj=0.1)
    part = next(iter(run.method.slices.values()))
    kept: list[int] = []
    x = torch.randn(9, 64)
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.append(t.numel()) or t, lambda t: t
    ):
        part.layer(x)
    assert 9 * len(part.index) in kept and max(kept) < x.numel()


def test_what_cannot_be_is_refused(by_hand: Any) -> None:
    with pytest.raises(RecipeError, match="all shares are 0"):
        methods.build("s2ft", {"down_proj": 0.0})
    with pytest.raises(RecipeError, match="o_proj=2"):
        methods.build("s2ft", {"o_proj": 2.0})
    with pytest.raises(RecipeError, match="less than one row"):
        by_hand("s2ft", down_proj=0.001)
