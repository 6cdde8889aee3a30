"""The two optimizers of SpIEL, over entries that are not all of the same age."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from tamis.trainer.methods.entry_step import entry_step
from tamis.trainer.methods.sparse import Entries


@cache
def aged_adam() -> type:
    """The optimizer class; a function, so that importing this stays cheap."""
    import torch

    class AgedAdam(entry_step()):
        """Adam with a count of steps for every entry, in float32: m = b1 m + (1 - b1) g;
        v = b2 v + (1 - b2) g^2; the step is lr m / (1 - b1^age) / (sqrt(v / (1 - b2^age)) + eps /
        sqrt(1 - b2^age)). Ages begin at 1 and grow after the step. Weight decay shrinks the result
        by lr x decay."""

        def __init__(
            self,
            params: Any,
            lr: float,
            betas: tuple[float, float] = (0.9, 0.999),
            eps: float = 1e-8,
            weight_decay: float = 0.0,
        ):
            known = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
            super().__init__(params, known)

        def _one(self, parameter: Any, group: dict[str, Any]) -> None:
            state = self.state[parameter]
            if not state:
                state["age"] = torch.ones_like(parameter)
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)
            gradient, (b1, b2) = parameter.grad, group["betas"]
            age, mean, square = state["age"], state["exp_avg"], state["exp_avg_sq"]
            mean.lerp_(gradient, 1 - b1)
            square.mul_(b2).addcmul_(gradient, gradient, value=1 - b2)
            root = square.sqrt().add_(group["eps"]) / (1 - b2**age).sqrt()
            parameter.addcdiv_(mean / (1 - b1**age), root, value=-group["lr"])
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            age += 1

    return AgedAdam


@cache
def entry_sm3() -> type:
    """The optimizer class; a function, so that importing this stays cheap."""
    import torch

    class EntrySm3(entry_step()):
        """SM3-II (arXiv 1901.11150) over entries of matrices: v = min(row, column) + g^2 with a
        number for each row and column of the matrix; the step is lr g / sqrt(v + eps); then row and
        column become the largest v in them. Weight decay shrinks the result by lr x decay."""

        def __init__(
            self,
            entries: Sequence[Entries],
            lr: float,
            eps: float = 1e-8,
            weight_decay: float = 0.0,
        ):
            self.entries = {e.values: e for e in entries}
            known = {"lr": lr, "eps": eps, "weight_decay": weight_decay}
            super().__init__(list(self.entries), known)

        def _one(self, parameter: Any, group: dict[str, Any]) -> None:
            entries, state = self.entries[parameter], self.state[parameter]
            height, width = entries.layer.weight.shape
            if not state:
                state["row"], state["column"] = (parameter.new_zeros(n) for n in (height, width))
            index, gradient = entries.index.long(), parameter.grad
            row, column = index // width, index % width
            square = torch.minimum(state["row"][row], state["column"][column])
            square.addcmul_(gradient, gradient)
            state["row"].scatter_reduce_(0, row, square, "amax")
            state["column"].scatter_reduce_(0, column, square, "amax")
            parameter.addcdiv_(gradient, (square + group["eps"]).sqrt(), value=-group["lr"])
            parameter.mul_(1 - group["lr"] * group["weight_decay"])

    return EntrySm3
