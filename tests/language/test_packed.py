"""Packed linear layers: the values of plain ones, and plain ones where packing would be wrong."""

from __future__ import annotations

import copy

import pytest
import torch

from tamis.language import packed
from tamis.language.packed import pack

PLAIN = {torch.nn.Linear, torch.nn.ReLU}


def layers(bias: bool = True) -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(48, 80, bias=bias), torch.nn.ReLU(), torch.nn.Linear(80, 7, bias=bias)
    )


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes that went through the packed kernel."""
    seen: list[tuple[int, ...]] = []
    packed._kind.cache_clear()
    real = torch.ops.mkldnn._linear_pointwise

    def counted(x: torch.Tensor, *given: object) -> torch.Tensor:
        seen.append(tuple(x.shape))
        return real(x, *given)

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", counted)
    yield seen
    packed._kind.cache_clear()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(48,), (1, 48), (33, 48), (3, 700, 48), (0, 48)])
def test_equals_the_plain_layer(
    used: list[tuple[int, ...]], bias: bool, shape: tuple[int, ...]
) -> None:
    plain = layers(bias)
    fast = pack(copy.deepcopy(plain))
    x = torch.randn(*shape)
    with torch.inference_mode():
        torch.testing.assert_close(fast(x), plain(x), rtol=1e-6, atol=1e-6)
    assert len(used) == 2


def test_gradients_take_the_plain_way(used: list[tuple[int, ...]]) -> None:
    plain = layers()
    fast = pack(copy.deepcopy(plain))
    x = torch.randn(5, 48)
    for model in (plain, fast):
        model(x).square().sum().backward()
    assert used == []
    for a, b in zip(plain.parameters(), fast.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)


def test_weights_changed_later_are_the_ones_used(used: list[tuple[int, ...]]) -> None:
    fast = pack(layers())
    x = torch.randn(5, 48)
    with torch.no_grad():
        fast[0].weight.mul_(2)
        fast[2].weight = torch.nn.Parameter(torch.ones(7, 80))
        expected = torch.relu(x @ fast[0].weight.T + fast[0].bias) @ torch.ones(80, 7)
        torch.testing.assert_close(fast(x), expected + fast[2].bias)
    assert used == []


def test_other_precisions_machines_and_large_models_stay_as_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert {type(m) for m in pack(layers().bfloat16())} == PLAIN
    with monkeypatch.context() as without:
        without.setattr(torch.backends.mkldnn, "is_available", lambda: False)
        assert {type(m) for m in pack(layers())} == PLAIN
    monkeypatch.setattr(packed, "_MOST_VALUES", 48 * 80 + 80 * 7 - 1)
    assert {type(m) for m in pack(layers())} == PLAIN


def test_cast_after_packing_computes_in_the_new_precision() -> None:
    fast = pack(layers()).bfloat16()
    with torch.inference_mode():
        assert fast(torch.randn(5, 48, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_a_copy_is_packed_by_its_own_weights(used: list[tuple[int, ...]]) -> None:
    fast = pack(layers())
    other = copy.deepcopy(fast)
    x = torch.randn(5, 48)
    with torch.inference_mode():
        assert torch.equal(fast(x), other(x))
    assert len(used) == 4
    with torch.no_grad():
        fast[0].weight.zero_()
        assert not torch.equal(fast(x), other(x))
    assert len(used) == 4 + 1 + 2
