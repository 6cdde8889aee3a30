"""The choice of the device."""

import pytest
import torch

from tamis.errors import TamisError
from tamis.numerics.device import resolve


@pytest.mark.parametrize(
    ("asked", "there", "given"),
    [("cpu", True, "cpu"), ("auto", False, "cpu"), ("auto", True, "cuda"), ("cuda", True, "cuda")],
)
def test_resolve(asked: str, there: bool, given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert resolve(asked) == given


def test_cuda_is_never_swapped_for_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(TamisError, match="no CUDA device"):
        resolve("cuda")
    with pytest.raises(TamisError, match="expected auto, cpu or cuda"):
        resolve("gpu")
