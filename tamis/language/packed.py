"""Linear layers on a CPU by oneDNN, their weights kept in the order its kernels read."""

from __future__ import annotations

from functools import cache
from typing import Any

# Weights that are kept a second time, in values (1 GB of float32): larger models stay as they are.
_MOST_VALUES = 2**28


def pack(model: Any) -> Any:
    """Let the linear layers of `model` (a torch module) compute by packed weights; returns it.

    On a CPU in float32 only. Values differ from `torch.nn.functional.linear` by rounding, and a
    layer computes as before with gradients and once its weight was changed in place. Cost: 0.9 of
    the time for hundreds of tokens, down to 0.3 for a few; memory of the weights a second time, so
    models of which that would be over a gigabyte are left as they are.
    """
    import torch

    if not torch.backends.mkldnn.is_available():
        return model
    layers = [m for m in model.modules() if type(m) is torch.nn.Linear and _fits(m.weight)]
    if sum(layer.weight.numel() for layer in layers) <= _MOST_VALUES:
        for layer in layers:
            layer.__class__ = _kind()
            layer.keep()
    return model


def _fits(weight: Any) -> bool:
    import torch

    plain = weight.device.type == "cpu" and weight.dtype == torch.float32
    return plain and not weight.is_inference()


@cache
def _kind() -> Any:
    import torch

    run, reorder = torch.ops.mkldnn._linear_pointwise, torch.ops.mkldnn._reorder_linear_weight

    class Linear(torch.nn.Linear):
        """As torch's, by the packed weight where that holds."""

        def keep(self) -> None:
            self._packed = reorder(self.weight.detach(), None)
            self._of = (self.weight.data_ptr(), self.weight._version)

        def forward(self, x: Any) -> Any:
            held = (self.weight.data_ptr(), self.weight._version) == self._of
            if held and x.dtype == torch.float32 and not torch.is_grad_enabled():
                return run(x, self._packed, self.bias, "none", [], "")
            return super().forward(x)

        def __getstate__(self) -> dict[str, Any]:
            return {k: v for k, v in self.__dict__.items() if k not in ("_packed", "_of")}

        def __setstate__(self, state: dict[str, Any]) -> None:  # a copy packs weights of its own
            super().__setstate__(state)
            self.keep()

    return Linear
